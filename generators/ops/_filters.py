"""FIR filters, and how one call of upfirdn2d becomes passes that an implementation can run.

An implementation knows one thing only: a correlation of every channel with a small 2-D filter, between zero insertion
and decimation. What is left of the definition (convolution or correlation, gain, separable filters) is settled here,
once for all of them.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def setup_filter(taps, *, normalize: bool = True, flip_filter: bool = False, gain: float = 1.0,
                 separable: bool | None = None, device=None) -> Tensor:
    """Make a filter for :func:`upfirdn2d` from a list of taps.

    Args:
        taps: 1-D, the taps of a separable filter (its 2-D form is the outer product with itself), or 2-D
            ``[height, width]``. StyleGAN2's is ``[1, 3, 3, 1]``.
        normalize: divide by the sum, so that a constant image keeps its value.
        flip_filter: reverse the taps, along both axes.
        gain: total magnification in 2-D; a 1-D filter, applied twice, takes its square root.
        separable: ``None`` keeps the number of dimensions that came; ``False`` turns 1-D taps into their outer
            product (StyleGAN2 checkpoints hold such 4×4 buffers); ``True`` insists on 1-D.

    Returns:
        float32 ``[taps]`` or ``[height, width]``. 2-D filters of up to 4×4 are as fast as separable ones.
    """
    f = torch.as_tensor(taps, dtype=torch.float32, device=device)
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"taps: 1-D or 2-D and not empty expected, got shape {tuple(f.shape)}")
    if separable and f.ndim == 2:
        raise ValueError(f"separable=True needs 1-D taps, got shape {tuple(f.shape)}")
    if normalize:
        total = f.sum()
        if total == 0:
            raise ValueError("taps sum to zero and cannot be normalised: pass normalize=False")
        f = f / total
    if f.ndim == 1 and gain < 0:
        raise ValueError(f"gain: a 1-D filter takes its square root, so it must not be negative, got {gain}")
    f = f * gain ** (f.ndim / 2)
    if f.ndim == 1 and separable is False:
        f = torch.outer(f, f)
    return f.flip(list(range(f.ndim))) if flip_filter else f


class Pass(NamedTuple):
    """Correlate every channel: pairs are (x, y), padding is (x0, x1, y0, y1), size is the output's (height, width)."""

    taps: Tensor  # [height, width], correlation order, gain folded in; float64 for float64 data, else float32
    up: tuple[int, int]
    down: tuple[int, int]
    padding: tuple[int, int, int, int]
    size: tuple[int, int]


def filter_size(f: Tensor) -> tuple[int, int]:
    """(width, height) of the 2-D filter that f stands for."""
    return f.shape[-1], f.shape[0]


def output_size(size: Sequence[int], taps: tuple[int, int], up: Sequence[int], down: Sequence[int],
                padding: Sequence[int]) -> tuple[int, int]:
    """(height, width) that comes out of an image of (height, width); zero or less where the filter does not fit."""
    x0, x1, y0, y1 = padding
    return ((size[0] * up[1] + y0 + y1 - taps[1]) // down[1] + 1, (size[1] * up[0] + x0 + x1 - taps[0]) // down[0] + 1)


def plan(size: Sequence[int], f: Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int],
         flip_filter: bool, gain: float, dtype: torch.dtype) -> list[Pass]:
    """The passes of one call on an image of (height, width): one, or two for a long separable filter.

    Two passes read and write the image twice, so they pay only where they save many products. An output costs
    ``tx·ty`` products in one pass and ``tx + ty`` in two, with ``t = taps / up`` since zeros are never multiplied.
    """
    taps = f.to(torch.float64 if dtype == torch.float64 else torch.float32)
    if not flip_filter:  # convolution: the correlation with the reversed filter
        taps = taps.flip(list(range(taps.ndim)))
    width, height = filter_size(f)
    if taps.ndim == 1:
        tx, ty = -(-width // up[0]), -(-height // up[1])
        if tx * ty > 3 * (tx + ty):
            row, column = (up[0], 1), (1, up[1])
            row_down, column_down = (down[0], 1), (1, down[1])
            row_padding, column_padding = (*padding[:2], 0, 0), (0, 0, *padding[2:])
            middle = output_size(size, (width, 1), row, row_down, row_padding)
            end = output_size(middle, (1, height), column, column_down, column_padding)
            return [Pass((taps * gain)[None, :], row, row_down, row_padding, middle),
                    Pass(taps[:, None], column, column_down, column_padding, end)]
        taps = torch.outer(taps, taps)
    end = output_size(size, (width, height), up, down, padding)
    return [Pass((taps * gain).contiguous(), tuple(up), tuple(down), tuple(padding), end)]
