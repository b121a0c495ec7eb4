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

from ._network import resized

Restore = Callable[[Tensor], Tensor]
_MODES = {0: "nearest", 2: "bilinear", 3: "bicubic"}          # PIL's numbers; its Lanczos (1) comes nearest to bicubic


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
    def read(cls, config: dict, model: dict) -> Preparation:
        """From the content of `preprocessor_config.json` and of `config.json`. Raises ValueError for a size it cannot tell."""
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
        zoe, normalise = kind.startswith("Zoe"), config.get("do_normalize", not kind.startswith("GLPN"))
        resize = config.get("do_resize", True)
        # A DPT with a ViT of its own takes one size only, whatever its processor says.
        fixed = model.get("model_type") == "dpt" and (model.get("is_hybrid") or not model.get("backbone_config"))
        size = _size(config.get("size", (384, 512) if zoe else 384)) if resize else None
        multiple = int(config.get("ensure_multiple_of") or 1) if resize else 1
        if kind.startswith("GLPN") and resize:
            size, multiple = "floor", int(config.get("size_divisor") or 32)
        divisor = int(config.get("size_divisor") or 0) if config.get("do_pad") and not zoe else 0
        return cls(
            size, keep_aspect=config.get("keep_aspect_ratio", zoe) and not fixed, multiple=max(multiple, 32 if zoe else 1),
            mode=_MODES.get(config.get("resample", 2 if zoe else 3), "bicubic"), align_corners=zoe,
            antialias=not kind.startswith("DepthPro"), reflect=zoe and config.get("do_pad", True), divisor=divisor,
            scale=1.0 if config.get("do_rescale", True) else 255.0,
            mean=tuple(config.get("image_mean") or (0.5,) * 3) if normalise else (0.0,) * 3,
            std=tuple(config.get("image_std") or (0.5,) * 3) if normalise else (1.0,) * 3)

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


def _size(size: object) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, dict) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    if isinstance(size, dict) and "shortest_edge" in size:
        return int(size["shortest_edge"]), int(size["shortest_edge"])
    raise ValueError(f"preprocessor_config.json: size={size!r:.80}, expected a number, or height and width")


def flipped(x: Tensor) -> Tensor:
    """Left and right exchanged."""
    return torch.flip(x, dims=(-1,))
