"""How a depth network of the hub wants its images, from its `preprocessor_config.json`; and its map brought back to the image.

transformers' own processors do the same to single pictures, and most of them ask for torchvision. Here whole batches go through
on the device they are on, and what was padded is cut off again. Interpolation is in float; the processors' is in bytes.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ._network import LARGEST, resized

Restore = Callable[[Tensor], Tensor]
_MODES = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic"}     # PIL's numbers; Lanczos (1) comes nearest to bicubic


@dataclass(frozen=True)
class Preparation:
    """image: float [N, 3, H, W] in [0, 1] -> (what the network takes, how its map comes back to H x W).

    Args:
        size: (height, width) of the resized image, None for its own; "floor": its own, down to multiples of `multiple`
        keep_aspect: `size` is met by one side only, the one that changes the scale least
        multiple: both sides are made multiples of it
        mode: of the interpolation
        align_corners: corner pixels on corner pixels, without antialiasing, as ZoeDepth resizes
        antialias: when shrinking
        reflect: pads by reflection before resizing, 3 sqrt(side / 2) pixels on each side, as ZoeDepth does
        divisor: pads the resized image with zeros around to multiples of it, as the DINOv2 heads do; 0: not
        scale: what white is before normalising, 1 or 255
        mean, std: of the normalisation
    """

    size: tuple[int, int] | str | None
    keep_aspect: bool = False
    multiple: int = 1
    mode: str = "bicubic"
    align_corners: bool = False
    antialias: bool = True
    reflect: bool = False
    divisor: int = 0
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @classmethod
    def read(cls, config: dict, model: dict, source: str = "preprocessor_config.json") -> Preparation:
        """From the content of `preprocessor_config.json` and of `config.json`; `source` is the former's place, for messages.

        Raises ValueError, with the field, for anything that it cannot tell or no picture could be prepared by.
        """
        stated = _Stated(config, source)
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
        zoe, normalise = kind.startswith("Zoe"), stated.flag("do_normalize", not kind.startswith("GLPN"))
        resize = stated.flag("do_resize", True)
        # A DPT with a ViT of its own takes one size only, whatever its processor says.
        fixed = model.get("model_type") == "dpt" and (model.get("is_hybrid") or not model.get("backbone_config"))
        size = stated.size((384, 512) if zoe else (384, 384)) if resize else None
        multiple = stated.whole("ensure_multiple_of", 1) if resize else 1
        if kind.startswith("GLPN") and resize:
            size, multiple = "floor", stated.whole("size_divisor", 32)
        pad = stated.flag("do_pad", zoe)
        divisor = stated.whole("size_divisor", 0) if pad and not zoe else 0
        return cls(
            size, keep_aspect=stated.flag("keep_aspect_ratio", zoe) and not fixed, multiple=max(multiple, 32 if zoe else 1),
            mode=stated.mode(2 if zoe else 3), align_corners=zoe, antialias=not kind.startswith("DepthPro"),
            reflect=zoe and pad, divisor=divisor, scale=stated.white(),
            mean=stated.three("image_mean", 0.5) if normalise else (0.0,) * 3,
            std=stated.three("image_std", 0.5, least=1e-4) if normalise else (1.0,) * 3)

    def at(self, shorter: int) -> Preparation:
        """The same fitted to a square of another size, in proportion where the network takes that."""
        return replace(self, size=(shorter, shorter), keep_aspect=self.keep_aspect or self.size in (None, "floor"),
                       multiple=max(self.multiple, self.divisor, 1))

    def __call__(self, image: Tensor) -> tuple[Tensor, Restore]:
        height, width = image.shape[-2:]
        around = _reflected(height, width) if self.reflect else (0, 0)
        x = F.pad(image, (around[1],) * 2 + (around[0],) * 2, mode="reflect") if any(around) else image
        before = tuple(x.shape[-2:])
        x = self._resize(x)
        mean, std = (x.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        x = (x * self.scale - mean) / std
        inner = tuple(x.shape[-2:])
        pads = [_halves(-side % self.divisor) if self.divisor else (0, 0) for side in inner]
        x = F.pad(x, (*pads[1], *pads[0]))
        outer = tuple(x.shape[-2:])

        def restore(found: Tensor) -> Tensor:
            if outer != inner:
                found = resized(found, outer)[..., pads[0][0]:pads[0][0] + inner[0], pads[1][0]:pads[1][0] + inner[1]]
            found = resized(found, before)
            return found[..., around[0]:around[0] + height, around[1]:around[1] + width]

        return x, restore

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing."""
        if self.size is None:
            return height, width
        if self.size == "floor":
            return tuple(max(side // self.multiple, 1) * self.multiple for side in (height, width))
        scales = [self.size[0] / height, self.size[1] / width]
        if self.keep_aspect:
            scales = [min(scales, key=lambda scale: abs(1 - scale))] * 2
        return tuple(max(round(side * scale / self.multiple), 1) * self.multiple
                     for side, scale in zip((height, width), scales, strict=True))

    def _resize(self, x: Tensor) -> Tensor:
        size = self.target(*x.shape[-2:])
        if size == tuple(x.shape[-2:]):
            return x
        if self.mode == "nearest":
            return F.interpolate(x, size, mode="nearest-exact")
        if self.align_corners:
            return F.interpolate(x, size, mode=self.mode, align_corners=True)
        return F.interpolate(x, size, mode=self.mode, align_corners=False, antialias=self.antialias)


def _reflected(height: int, width: int) -> tuple[int, int]:
    """What ZoeDepth pads; at most what there is to reflect."""
    return tuple(min(int(3 * math.sqrt(side / 2)), side - 1) for side in (height, width))


def _halves(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2


@dataclass(frozen=True)
class _Stated:
    """The fields of a `preprocessor_config.json`, each with its default where it is left out or null."""

    fields: dict
    source: str

    def refuse(self, name: str, expected: str) -> ValueError:
        return ValueError(f"{self.source}: {name}={self.fields.get(name)!r:.80}, expected {expected}; fetch the file again")

    def flag(self, name: str, default: bool) -> bool:
        value = self.fields.get(name)
        if value not in (None, True, False):
            raise self.refuse(name, "true or false")
        return default if value is None else bool(value)

    def whole(self, name: str, default: int) -> int:
        value = self.fields.get(name)
        if value is not None and not _side(value):
            raise self.refuse(name, f"a whole number from 1 to {LARGEST}")
        return default if value is None else value

    def size(self, default: tuple[int, int]) -> tuple[int, int]:
        """(height, width) from a number, a pair of them, or an object with height and width, or with shortest_edge."""
        size = self.fields.get("size")
        sides: tuple = default if size is None else (size, size)
        if isinstance(size, (list, tuple)):
            sides = tuple(size)
        elif isinstance(size, dict):
            sides = (size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge")))
        if len(sides) != 2 or not all(map(_side, sides)):
            raise self.refuse("size", f"a number from 1 to {LARGEST}, or height and width")
        return sides

    def mode(self, default: int) -> str:
        value = self.fields.get("resample")
        value = default if value is None else value
        if type(value) is not int or value not in _MODES:
            raise self.refuse("resample", "0 (nearest), 1 (Lanczos), 2 (bilinear) or 3 (bicubic)")
        return _MODES[value]

    def white(self) -> float:
        """What white is before normalising: 255 where bytes are not rescaled, else 255 times their factor, as a rule 1."""
        if not self.flag("do_rescale", True):
            return 255.0
        factor = self.fields.get("rescale_factor")
        if factor is not None and not (_number(factor) and 0 < factor <= 1):
            raise self.refuse("rescale_factor", "a number above 0, at most 1")
        return 1.0 if factor is None or abs(255 * factor - 1) < 1e-6 else 255.0 * factor

    def three(self, name: str, default: float, least: float = -1e6) -> tuple[float, ...]:
        """One number for each colour, or one for all."""
        value = self.fields.get(name)
        value = default if value is None else value
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * 3
        if len(values) != 3 or not all(_number(one) and least <= one <= 1e6 for one in values):
            raise self.refuse(name, f"three numbers{f' of at least {least:g}' if least > 0 else ''}")
        return tuple(map(float, values))


def _number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _side(value: object) -> bool:
    return type(value) is int and 1 <= value <= LARGEST


def flipped(x: Tensor) -> Tensor:
    """Left and right exchanged."""
    return torch.flip(x, dims=(-1,))
