"""The trivial predictor: the mean map of a dataset, which looks at no image. What beats it has seen something.

The mean is taken over maps of samples that are not scored, per pixel over those that have a value there, on a coarse grid
that is stretched to each sample. Where all samples are scored it is taken over those: it then knows a little of the answers,
and skill against it comes out too low, never too high.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .._parallel import Unreadable, prefetch, sample_bytes
from ..data import Data, resize_map, valid

LEAST = 10          # unscored samples, below which scored ones are taken
_SIDE = 128         # of the grid's shorter side


@dataclass(frozen=True)
class Mean:
    """The mean map.

    Args:
        values: float32 [C, h, w], without holes
        samples: how many maps it is the mean of
        scored: whether they are among those that are scored
    """

    values: Tensor
    samples: int
    scored: bool

    def at(self, size: tuple[int, int], intrinsic: str) -> Tensor:
        """[C, H, W] for a sample of this size."""
        return resize_map(self.values, size, intrinsic)


def chosen(data: Data, scored: Sequence[int], most: int) -> tuple[list[int], bool]:
    """(which samples the mean is taken over, whether they are scored ones)."""
    taken = set(scored)
    free = [i for i in data.training(most + len(taken)) if i not in taken]
    if len(free) < LEAST and data.count is not None:
        free = [i for i in range(data.count) if i not in taken]
    if len(free) >= LEAST:
        return _spread(free, most), False
    return _spread(list(scored), most), True


def mean_map(data: Data, intrinsic: str, scored: Sequence[int], most: int, threads: int,
             update: Callable[[int, int, str], None] = lambda *_: None) -> Mean | None:
    """The mean of at most `most` maps; None where none can be read."""
    numbers, among = chosen(data, scored, most)
    total = count = size = None
    samples = 0
    for n, (_, found) in enumerate(prefetch(numbers, lambda i: data.sample(i, (intrinsic,)), threads, cost=sample_bytes)):
        update(n + 1, len(numbers), "")
        if isinstance(found, Unreadable):
            continue
        values = found.maps[intrinsic]
        if size is None:
            factor = min(1.0, _SIDE / min(values.shape[1:]))
            size = tuple(max(1, round(side * factor)) for side in values.shape[1:])
            total, count = torch.zeros(values.shape[0], *size, dtype=torch.float64), torch.zeros(1, *size, dtype=torch.float64)
        small = resize_map(values, size, intrinsic)
        known = valid(small)
        total += torch.where(known, small, 0.0)
        count += known
        samples += bool(known.any())
    if not samples:
        return None
    everywhere = total.sum((1, 2), keepdim=True) / count.sum()
    mean = torch.where(count > 0, total / count.clamp_min(1), everywhere).float()
    if intrinsic == "normal":
        length = mean.norm(dim=0, keepdim=True)
        facing = torch.tensor([0.0, 0.0, -1.0])[:, None, None]
        mean = torch.where(length > 1e-6, F.normalize(mean, dim=0), facing)
    return Mean(mean, samples, among)


def _spread(numbers: list[int], most: int) -> list[int]:
    """At most so many of them, from the whole of the list: neighbours in a dataset are often of one scene."""
    if len(numbers) <= most:
        return numbers
    return [numbers[i * len(numbers) // most] for i in range(most)]
