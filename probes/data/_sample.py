"""One image of a dataset at its own size, and what is known about it."""
from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: focal lengths and principal point in pixels of the image it belongs to, half-pixel centres (the
    centre of the top left pixel is (0.5, 0.5))."""

    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True, eq=False)
class Sample:
    """One image.

    Args:
        name: unique within its data
        image: float32 [3, H, W] in [-1, 1], sRGB-encoded
        maps: {intrinsic: physical map, float32 [C, H, W]} (see `probes._intrinsics`); NaN where there is no value
        camera: where it is known
    """

    name: str
    image: Tensor
    maps: dict[str, Tensor] = field(default_factory=dict)
    camera: Camera | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[1], self.image.shape[2]
