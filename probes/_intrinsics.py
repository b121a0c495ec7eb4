"""What a generator is asked for: intrinsics, how each becomes an image in [-1, 1] and back, and its training loss.

A physical map (what a teacher returns, what metrics score) is float [N, C, H, W]:

    normal   C=3  unit vectors, camera frame x right, y down, z forward, towards the viewer: a wall that faces the camera
                  is (0, 0, -1), a floor (0, -1, 0) (Omnidata-v2's frame)
    depth    C=1  z-depth in metres; or, with encodings that keep no unit, [0, 1] up to a scale and a shift, in depth or in
                  inverse depth (see `probes._depth`, and `Intrinsic.meaning`)
    albedo   C=3  sRGB-encoded diffuse reflectance in [0, 1]
    shading  C=1  sRGB-encoded achromatic shading in [0, 1]

NaN in any channel means that a pixel has no value.

Encoded, it is what the generator's head must emit: [-1, 1], one-channel maps repeated to three. Losses are the paper's
for pixel-space generators (arXiv 2311.17137, section 3): 1 - cos + L1 for normals, mean squared error for the rest.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch.nn.functional as F
from torch import Tensor

from generators._names import UnknownNameError, unknown

from . import _depth

Coding = Callable[[Tensor, dict], Tensor]


@dataclass(frozen=True)
class Intrinsic:
    """One property of a scene.

    Args:
        name: "normal", "depth", ...
        channels: of the physical map
        encode: (map, options) -> [N, C, H, W] in [-1, 1]
        decode: (image [N, 3, H, W], options) -> map
        loss: (prediction, target), both [N, 3, H, W] -> scalar
        protocol: name of the default metric protocol
        description: unit and frame, one line
        options: of encode and decode; kept in the probe's record
        prompt: what a generator that reads text is told; the name by default
        chosen: the options that were replaced, which a teacher's suggestions leave alone
    """

    name: str
    channels: int
    encode: Coding
    decode: Coding
    loss: Callable[[Tensor, Tensor], Tensor]
    protocol: str
    description: str
    options: dict = field(default_factory=dict)
    prompt: str | None = None
    chosen: frozenset[str] = frozenset()

    def with_options(self, options: dict) -> Intrinsic:
        """The same with some options replaced. Raises ValueError for options it does not have."""
        wrong = set(options) - set(self.options)
        if wrong:
            raise ValueError(f"intrinsic: {self.name} has no option {sorted(wrong)[0]!r}; "
                             f"it has {', '.join(self.options) or 'none'}")
        chosen = replace(self, options={**self.options, **options}, chosen=self.chosen | set(options))
        if self.name != "depth":
            return chosen
        _depth.check(chosen.options)
        return replace(chosen, protocol=_depth.PROTOCOLS.get(chosen.options["encoding"], "depth-metric"),
                       description=_depth.DESCRIPTIONS[chosen.meaning])

    @property
    def meaning(self) -> str:
        """What the numbers of a depth map are: "metric" (metres), "relative" (depth up to a scale and a shift) or "disparity"
        (inverse depth, likewise); "" for everything else."""
        return _depth.MEANINGS[self.options["encoding"]] if self.name == "depth" else ""

    def to_image(self, values: Tensor) -> Tensor:
        """Physical map -> float [N, 3, H, W] in [-1, 1]."""
        return self.encode(values, self.options).expand(-1, 3, -1, -1)

    def to_map(self, image: Tensor) -> Tensor:
        """What a head emitted -> physical map."""
        return self.decode(image.float(), self.options)


def cosine_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - cos + L1 between vector fields [N, 3, H, W]; the prediction need not have unit length."""
    # F.cosine_similarity normalises both fields first, and costs a sixth of a small generator's step.
    norms = (prediction.square().sum(1) + 1e-6).rsqrt() * (target.square().sum(1) + 1e-6).rsqrt()
    return (1 - (prediction * target).sum(1) * norms).mean() + (prediction - target).abs().mean()


def _to_signed(x: Tensor, options: dict) -> Tensor:
    return x * 2 - 1


_REGISTRY: dict[str, Intrinsic] = {}


def register_intrinsic(intrinsic: Intrinsic) -> Intrinsic:
    """Makes an intrinsic known by its name. Raises ValueError if the name is taken by another."""
    if _REGISTRY.get(intrinsic.name, intrinsic) is not intrinsic:
        raise ValueError(f"intrinsic: {intrinsic.name!r} is already registered")
    _REGISTRY[intrinsic.name] = intrinsic
    return intrinsic


def get_intrinsic(name: str | Intrinsic) -> Intrinsic:
    """By name, or the intrinsic itself. Raises UnknownNameError with the nearest names, ValueError for several."""
    if isinstance(name, Intrinsic):
        return name
    if not isinstance(name, str):
        got = f"a {type(name).__name__}" if isinstance(name, Iterable) else repr(name)
        raise ValueError(f"intrinsic: expected one name, got {got}; fit each by itself, as intrinsic='normal'")
    if name not in _REGISTRY:
        raise UnknownNameError(f"{unknown('intrinsic', name, _REGISTRY)}; one of your own is made known with "
                               "probes.register_intrinsic")
    return _REGISTRY[name]


def intrinsics() -> dict[str, Intrinsic]:
    """Every registered intrinsic by name."""
    return dict(_REGISTRY)


register_intrinsic(Intrinsic(
    "normal", 3, lambda x, o: x, lambda x, o: F.normalize(x, dim=1), cosine_l1, "normal-per-image",
    "unit vectors turned towards the viewer; axes x right, y down, z forward", prompt="surface normal"))
register_intrinsic(Intrinsic(
    "depth", 1, _depth.encode, _depth.decode, F.mse_loss, "depth-metric",
    "z-depth in metres, or relative where the teacher or --encoding has it so", dict(_depth.OPTIONS), prompt="depth map"))
register_intrinsic(Intrinsic(
    "albedo", 3, _to_signed, lambda x, o: (x.clamp(-1, 1) + 1) / 2, F.mse_loss, "image-rms",
    "diffuse reflectance, sRGB-encoded, [0, 1]"))
register_intrinsic(Intrinsic(
    "shading", 1, _to_signed, lambda x, o: (x.mean(1, keepdim=True).clamp(-1, 1) + 1) / 2, F.mse_loss, "image-rms",
    "achromatic shading, sRGB-encoded, [0, 1]"))

