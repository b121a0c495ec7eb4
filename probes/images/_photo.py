"""What a photograph is once it has been read, and the one error for those that cannot be."""
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

MIN_SIDE = 8  # pixels: below this there is nothing that a latent grid, 8 times coarser, could hold


class ImageError(ValueError):
    """An image cannot be read; `str()` is one line: the item, what came, what was expected, what to do."""


@dataclass(frozen=True, eq=False)
class Photo:
    """One photograph.

    Args:
        pixels: float32 [3, H, W] in [-1, 1], sRGB-encoded, on the CPU, upright
        name: the path as it was given, or "array", "tensor", "picture" for what came without one
        notes: what a person should know of how it was read, such as "the first of 12 frames"
    """

    pixels: Tensor
    name: str
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[1], self.pixels.shape[2]


def check_size(height: int, width: int, name: str) -> None:
    """Raises ImageError for a picture without pixels, or too small to be one."""
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{name}: it is {width}×{height} pixels; expected at least {MIN_SIDE}×{MIN_SIDE}; give the "
                         "photograph itself, not a thumbnail or an empty crop")
