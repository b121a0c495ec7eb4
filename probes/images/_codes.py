"""Maps as 16-bit integers: value = offset + scale · code, and what a reader must know to undo it.

    normal            code 0 … 65535 for components -1 … 1; the code (0, 0, 0), no unit vector, marks pixels without one
    albedo, shading   code 0 … 65535 for 0 … 1, sRGB-encoded
    everything else   code 1 … 65535 from the map's least to its greatest value; 0 marks pixels without one

The greatest error is half a step: 1/65535 for a normal's component, a half of that for albedo and shading.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_TOP = 65535
_SLACK = 1e-3


class MapError(ValueError):
    """The values of a map are none that it can have, or none that a format can hold."""


@dataclass(frozen=True)
class Coding:
    """How values [C, H, W] become codes. `no_value`: code 0 (in every channel) marks pixels that are not finite."""

    scale: float
    offset: float
    no_value: bool

    def encode(self, values: np.ndarray) -> np.ndarray:
        """float [C, rows, W] -> uint16 [rows, W, C]."""
        values = values.transpose(1, 2, 0).astype(np.float64)  # float32 leaves 8 of 24 bits for the rounding
        bad = ~np.isfinite(values).all(-1)
        values -= self.offset
        values /= self.scale
        codes = np.nan_to_num(values, nan=0, posinf=0, neginf=0).round().clip(0, _TOP).astype(np.uint16)
        codes[bad] = 0
        return codes


def coding(values: np.ndarray, intrinsic: str) -> Coding:
    """Chooses the coding of a map. Raises MapError for values that it could not hold."""
    low, high, finite = _ends(values)
    if intrinsic == "normal":
        _within(low, high, -1, intrinsic, "normalise them first")
        return Coding(2 / _TOP, -1.0, True)
    if intrinsic in ("albedo", "shading"):
        _within(low, high, 0, intrinsic, "clamp it first")
        if not finite:
            raise MapError(f"values: {intrinsic} holds NaN or infinite values, for which its 16-bit PNG has no code; use "
                             "formats=('npy',) or 'exr'")
        return Coding(1 / _TOP, 0.0, False)
    scale = (high - low) / (_TOP - 1) or 1.0
    return Coding(scale, low - scale, True)


def strips(values: np.ndarray, rows: int = 128) -> Iterator[np.ndarray]:
    """[C, H, W] a few rows at a time: what keeps the peak of memory near the map's own size."""
    for row in range(0, values.shape[1], rows):
        yield values[:, row:row + rows]


def _ends(values: np.ndarray) -> tuple[float, float, bool]:
    """The least and the greatest finite value, 0 and 0 where there is none, and whether all are finite."""
    low, high, all_finite = np.inf, -np.inf, True
    for part in strips(values):
        finite = part[np.isfinite(part)]
        all_finite &= finite.size == part.size
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high, all_finite) if high >= low else (0.0, 0.0, all_finite)


def _within(low: float, high: float, bottom: int, intrinsic: str, advice: str) -> None:
    if low < bottom - _SLACK or high > 1 + _SLACK:
        raise MapError(f"values: {intrinsic} runs from {low:.4g} to {high:.4g}; expected [{bottom}, 1]; {advice}, or use "
                         "formats=('npy',) or 'exr'")
