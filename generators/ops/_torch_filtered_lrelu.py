"""filtered_lrelu on a CPU: resampling as small matrix products, because those run near a CPU's peak and FIRs do not.

Zero insertion, padding and a separable FIR are one linear map along each axis, and so are a FIR and decimation:

    y = D_y · φ(U_y · (x + b) · U_xᵀ) · D_xᵀ        φ(u) = clamp(lrelu(u)), the gain inside U: lrelu(g·u) = g·lrelu(u)

with banded matrices that depend on sizes and filters alone. A dense block multiplies several zeros for every tap, and is
still faster than convolutions of one channel (`python benchmarks/ops.py` says by how much). Large images go tile by tile,
many channels at once, so that the matrices stay small, dense and the same, and the upsampled signal, 4 to 16 times the
image, never leaves the cache: the gradient computes it again rather than read it back. Inside, the order is
[row, channel, column]: then the product from the left and the one from the right are both one plain GEMM.

A filter that is not an outer product (StyleGAN3-R's radial ones) is a sum of a few, by its singular values.
"""
from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._filters import filter_size
from ._layout import memory_format

aten = torch.ops.aten

# Measured at the shapes of StyleGAN-XL, on one core with 2 MB of second-level cache.
_TILE = (56, 56)  # outputs along y, x; an axis of up to half as many again is one tile
_BLOCKS = (20, 41)  # positions of the upsampled signal that a block of a left, right matrix covers
_CHUNK = 3 << 18  # samples of the upsampled signal that are worked on at once


class Spec(NamedTuple):
    """Everything about a call but its tensors. Pairs are (x, y), padding is (x0, x1, y0, y1); ``clamp < 0`` is none."""

    up: tuple[int, int]
    down: tuple[int, int]
    padding: tuple[int, int, int, int]
    gain: float
    slope: float
    clamp: float


class Geometry(NamedTuple):
    """One axis: x has `size` samples, the upsampled signal `middle`, y `out`."""

    size: int
    middle: int
    out: int
    up: int
    down: int
    pad: int
    taps_up: int
    taps_down: int

    @classmethod
    def of(cls, size: int, up: int, down: int, pads: tuple[int, int], taps_up: int, taps_down: int) -> Geometry:
        middle = size * up + sum(pads) - taps_up + 1
        return cls(size, middle, (middle - taps_down) // down + 1, up, down, pads[0], taps_up, taps_down)

    # Sample i meets position j of the upsampled signal at tap i·up + pad - j; position j meets output o at tap j - o·down.
    def middle_of_outputs(self, begin: int, end: int) -> tuple[int, int]:
        return _clip(begin * self.down, (end - 1) * self.down + self.taps_down, self.middle)

    def middle_of_samples(self, begin: int, end: int) -> tuple[int, int]:
        return _clip(begin * self.up + self.pad - self.taps_up + 1, (end - 1) * self.up + self.pad + 1, self.middle)

    def samples(self, begin: int, end: int) -> tuple[int, int]:
        return _clip(-((self.pad - begin) // self.up), (end - 1 - self.pad + self.taps_up - 1) // self.up + 1, self.size)

    def outputs(self, begin: int, end: int) -> tuple[int, int]:
        return _clip(-((self.taps_down - 1 - begin) // self.down), (end - 1) // self.down + 1, self.out)

    def up_matrix(self, f: np.ndarray, middle: tuple[int, int], samples: tuple[int, int]) -> np.ndarray:
        return _gather(f, np.arange(*samples)[None, :] * self.up + self.pad - np.arange(*middle)[:, None])

    def down_matrix(self, f: np.ndarray, outputs: tuple[int, int], middle: tuple[int, int]) -> np.ndarray:
        return _gather(f, np.arange(*middle)[None, :] - np.arange(*outputs)[:, None] * self.down)


def axes(size: Sequence[int], fu: Tensor | np.ndarray, fd: Tensor | np.ndarray, spec: Spec) -> tuple[Geometry, Geometry]:
    """(x, y), for an image of (height, width)."""
    return tuple(Geometry.of(size[1 - i], spec.up[i], spec.down[i], spec.padding[2 * i:2 * i + 2],
                             filter_size(fu)[i], filter_size(fd)[i]) for i in (0, 1))


def _clip(begin: int, end: int, size: int) -> tuple[int, int]:
    begin = min(max(begin, 0), size)
    return begin, max(begin, min(end, size))


def _gather(f: np.ndarray, tap: np.ndarray) -> np.ndarray:
    return np.where((tap >= 0) & (tap < len(f)), f[tap.clip(0, len(f) - 1)], 0)


class Tile(NamedTuple):
    """A tile of one axis of the result: which slice of the result, of the upsampled signal, of what comes in, of x."""

    result: tuple[int, int]
    middle: tuple[int, int]
    source: tuple[int, int]
    samples: tuple[int, int]


class Block(NamedTuple):
    """The rows `rows` of a banded matrix, its columns but for the zeros before and after: `columns`."""

    matrix: Tensor
    rows: slice
    columns: slice


class Banded(NamedTuple):
    height: int
    blocks: list[Block]


class Term(NamedTuple):
    """One of a sum of products from both sides, ``left · x · rightᵀ``; the blocks of `right` are stored transposed."""

    left: Banded
    right: Banded


class Job(NamedTuple):
    """A tile of the result, with the matrices that lead to it."""

    y: Tile
    x: Tile
    rise: list[Term]  # samples to the upsampled signal
    enter: list[Term]  # what comes in to the upsampled signal: the same, or, for the gradient, D transposed
    leave: list[Term]
    amplification: float  # of |x + b| at most, by `rise`


def _outer_products(f: np.ndarray, dtype: torch.dtype) -> list[tuple[np.ndarray, np.ndarray]]:
    """f as a sum of outer products of (column, row), as exact as `dtype`; one for a 1-D filter."""
    if f.ndim == 1:
        return [(f, f)]
    columns, values, rows = np.linalg.svd(f)
    rank = int((values > values[0] * torch.finfo(dtype).eps / 2).sum())
    return [(columns[:, r] * values[r], rows[r]) for r in range(max(rank, 1))]


def _tiles(axis: Geometry, transposed: bool, width: int) -> list[Tile]:
    total = axis.size if transposed else axis.out
    # The tiles that cost the same: as many outputs, or as much of the upsampled signal.
    width = width * axis.down / axis.up if transposed else width
    count = max(1, round(total / width))
    tiles = []
    for i in range(count):
        result = (total * i // count, total * (i + 1) // count)
        middle = axis.middle_of_samples(*result) if transposed else axis.middle_of_outputs(*result)
        samples = axis.samples(*middle)
        tiles.append(Tile(result, middle, axis.outputs(*middle) if transposed else samples, samples))
    return tiles


class _Matrices:
    """Makes matrices of one call; equal ones, those of all inner tiles, are one in memory."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.made: dict[tuple, Banded] = {}

    def banded(self, matrix: np.ndarray, block: float, transpose: bool) -> Banded:
        key = (matrix.shape, matrix.tobytes(), transpose)
        if key not in self.made:
            self.made[key] = self._split(matrix, block, transpose)
        return self.made[key]

    def _split(self, matrix: np.ndarray, block: float, transpose: bool) -> Banded:
        height = len(matrix)
        count = max(1, round(height / block))
        blocks = []
        for i in range(count):
            rows = slice(height * i // count, height * (i + 1) // count)
            used = np.flatnonzero(matrix[rows].any(axis=0))
            columns = slice(used[0], used[-1] + 1) if len(used) and count > 1 else slice(0, matrix.shape[1])
            values = matrix[rows, columns]
            blocks.append(Block(torch.tensor(values.T if transpose else values, dtype=self.dtype), rows, columns))
        return Banded(height, blocks)

    def terms(self, pairs: list[tuple[np.ndarray, np.ndarray]], rows: float, columns: float) -> list[Term]:
        """`rows`, `columns`: how many of a left and of a right matrix's rows make a block."""
        if self.dtype.itemsize == 2:  # the CPU's 16-bit products are made of tiles too large for narrow blocks
            rows = columns = math.inf
        return [Term(self.banded(y, rows, False), self.banded(x, columns, True)) for y, x in pairs]


@functools.lru_cache(maxsize=256)
def _jobs(size: tuple[int, int], fu: tuple, fd: tuple, spec: Spec, transposed: bool, dtype: torch.dtype) -> list[Job]:
    """The tiles of one call. Filters come as (shape, bytes): equal filters share their matrices wherever they live."""
    fu, fd = (np.frombuffer(data, dtype=np.float64).reshape(shape)[(slice(None, None, -1),) * len(shape)]
              for shape, data in (fu, fd))
    (up_x, up_y), (_, down_y) = spec.up, spec.down
    ax, ay = axes(size, fu, fd, spec)
    gain = (spec.gain * up_x * up_y) ** 0.5
    ups = [(column * gain, row * gain) for column, row in _outer_products(fu, dtype)]
    downs = _outer_products(fd, dtype)
    make = _Matrices(dtype)

    jobs = []
    for y in _tiles(ay, transposed, _TILE[0]):
        for x in _tiles(ax, transposed, _TILE[1]):
            rise = [(ay.up_matrix(column, y.middle, y.samples), ax.up_matrix(row, x.middle, x.samples))
                    for column, row in ups]
            if transposed:
                enter = [(ay.down_matrix(column, y.source, y.middle).T, ax.down_matrix(row, x.source, x.middle).T)
                         for column, row in downs]
                leave = [(ay.up_matrix(column, y.middle, y.result).T, ax.up_matrix(row, x.middle, x.result).T)
                         for column, row in ups]
            else:
                enter = rise
                leave = [(ay.down_matrix(column, y.result, y.middle), ax.down_matrix(row, x.result, x.middle))
                         for column, row in downs]
            narrowed = _BLOCKS[0] / (up_y if transposed else down_y)
            jobs.append(Job(y, x, make.terms(rise, *_BLOCKS), make.terms(enter, *_BLOCKS),
                            make.terms(leave, narrowed, math.inf), sum(_norm(left) * _norm(right) for left, right in rise)))
    return jobs


def _norm(matrix: np.ndarray) -> float:
    return float(np.abs(matrix).sum(axis=1).max(initial=0))


def _key(f: Tensor) -> tuple:
    return tuple(f.shape), f.detach().double().numpy().tobytes()


def _working_type(dtype: torch.dtype) -> torch.dtype:
    """What the products are computed in: 16-bit floats only where the CPU has instructions for them."""
    if dtype == torch.bfloat16:
        return dtype if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    return torch.float32 if dtype == torch.float16 else dtype


def _chunks(batch: int, channels: int, each: int) -> list[tuple[slice, slice]]:
    """Slices of batch and channels of about `each` images, the channels split before the batch is."""
    if each < channels:
        count = -(-channels // each)
        edges = [channels * i // count for i in range(count + 1)]
        return [(slice(n, n + 1), slice(a, b)) for n in range(batch) for a, b in zip(edges, edges[1:], strict=False)]
    step = max(1, each // channels)
    return [(slice(n, min(n + step, batch)), slice(0, channels)) for n in range(0, batch, step)]


def _take(x: Tensor, chunk: tuple[slice, slice], y: tuple[int, int], c: tuple[int, int], b: Tensor | None,
          dtype: torch.dtype) -> Tensor:
    """The samples of a chunk and tile, bias added, as a new dense [rows, batch · channels, columns]."""
    part = x[chunk[0], chunk[1], slice(*y), slice(*c)].permute(2, 0, 1, 3)
    dense = torch.empty(part.shape, dtype=dtype).copy_(part)
    if b is not None:
        dense += b[(*chunk, None) if b.ndim == 2 else (chunk[1], None)]
    return dense.view(part.shape[0], -1, part.shape[3])


def _enter(x: Tensor, terms: list[Term]) -> Tensor:
    """Σ left · x · rightᵀ, for every one of the images in the middle of [rows, images, columns].

    From the right first, while there are few rows: what is banded helps the product from the left more.
    """
    rows, images, columns = x.shape
    y = None
    for left, right in terms:
        half = _product(x.view(rows * images, columns), right, from_left=False).view(rows, -1)
        part = _product(half, left, from_left=True)
        y = part if y is None else y.add_(part)
    return y.view(y.shape[0], images, -1)


def _leave(u: Tensor, terms: list[Term], place: Tensor) -> None:
    """The same into `place` [N, C, H, W], and from the left first, so that few rows are left."""
    rows, images, columns = u.shape
    # In channels_last the second product transposes its result for nothing; a copy would take its time.
    last = place.stride(1) == 1 and place.shape[0] == 1
    y = None
    for left, right in terms:
        half = _product(u.view(rows, images * columns), left, from_left=True).view(-1, images, columns)
        matrix = right.blocks[0].matrix
        if last:
            part = torch.bmm(matrix.T.expand(len(half), -1, -1), half.transpose(1, 2))
        else:
            part = torch.mm(half.view(-1, columns), matrix)
        y = part if y is None else y.add_(part)
    if last:
        place[0].permute(1, 2, 0).copy_(y)
    else:
        place.permute(2, 0, 1, 3).copy_(y.view(place.shape[2], *place.shape[:2], place.shape[3]))


def _product(x: Tensor, banded: Banded, from_left: bool) -> Tensor:
    """banded · x, or x · bandedᵀ"""
    if len(banded.blocks) == 1:
        matrix = banded.blocks[0].matrix
        return torch.mm(matrix, x) if from_left else torch.mm(x, matrix)
    y = x.new_empty((banded.height, x.shape[1]) if from_left else (x.shape[0], banded.height))
    for matrix, rows, columns in banded.blocks:
        if from_left:
            torch.mm(matrix, x[columns], out=y[rows])
        else:
            torch.mm(x[:, columns], matrix, out=y[:, rows])
    return y


def activate_(u: Tensor, spec: Spec) -> Tensor:
    """φ(u), the gain already in u."""
    if spec.slope != 1:
        torch.nn.functional.leaky_relu_(u, spec.slope)
    return u.clamp_(-spec.clamp, spec.clamp) if spec.clamp >= 0 else u


def slope_(g: Tensor, u: Tensor, spec: Spec) -> Tensor:
    """g · φ'(u)"""
    if spec.slope != 1:
        aten.leaky_relu_backward.grad_input(g, u, spec.slope, False, grad_input=g)
    if spec.clamp >= 0:
        lowest = -spec.clamp / spec.slope if spec.slope > 0 else -math.inf
        aten.hardtanh_backward.grad_input(g, u, lowest, spec.clamp, grad_input=g)
    return g


def run(x: Tensor, b: Tensor | None, fu: Tensor, fd: Tensor, spec: Spec, v: Tensor | None = None,
        transposed: bool = False) -> Tensor:
    """y; or with `v` its derivative at x: in direction v, a signal like x, or, `transposed`, of the dot product with v.

    x ``[N, C, H, W]`` on a CPU, b ``[C]`` or ``[N, C]`` in the type of x. The result has the memory format of v, or of x.
    """
    dtype = _working_type(x.dtype)
    jobs = _jobs(tuple(x.shape[2:]), _key(fu), _key(fd), spec, transposed, dtype)
    size = (jobs[-1].y.result[1], jobs[-1].x.result[1])
    result = torch.empty((*x.shape[:2], *size), dtype=x.dtype, memory_format=memory_format(x if v is None else v))
    if result.numel() == 0:
        return result
    largest = max((job.y.middle[1] - job.y.middle[0]) * (job.x.middle[1] - job.x.middle[0]) for job in jobs)
    each = max(1, _CHUNK // max(largest, 1))
    b = None if b is None else b.to(dtype)
    unclamped = spec._replace(clamp=-1.0)
    for chunk in _chunks(*x.shape[:2], each):
        for job in jobs:
            samples = _take(x, chunk, job.y.samples, job.x.samples, b, dtype)
            # Looking at the samples is cheaper than clamping the upsampled signal, which is hardly ever needed.
            spare = spec.clamp >= 0 and _largest(samples) * job.amplification * 1.01 < spec.clamp
            phi = unclamped if spare else spec
            u = _enter(samples, job.rise)
            if v is None:
                u = activate_(u, phi)
            else:
                u = slope_(_enter(_take(v, chunk, job.y.source, job.x.source, None, dtype), job.enter), u, phi)
            place = result[chunk[0], chunk[1], slice(*job.y.result), slice(*job.x.result)]
            _leave(u, job.leave, place)
    return result


def _largest(x: Tensor) -> float:
    """max |x|; NaN where x has one."""
    if x.numel() == 0:
        return 0.0
    low, high = torch.aminmax(x)
    return max(-low.item(), high.item())
