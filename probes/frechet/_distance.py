"""Fréchet distance between two sets of features, and that of a generator to real images.

d² = |μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½)  (Heusel et al. 2017, arXiv 1706.08500, equation 6).
"""
from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from generators import Generator

from ..data import Data, default_data, get_data
from ._detectors import Detector

SAMPLES = 2500
_FIRST_SEED = 10**9         # of images that no bank and no evaluation has


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """a, b: features float [N, D], N > D."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # tr (Σ_a Σ_b)^½ through the symmetric Σ_a^½ Σ_b Σ_a^½, whose eigenvalues are the same and real.
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    trace = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    distance = float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * trace)
    return max(distance, 0.0)       # of equal sets rounding leaves a little on either side


def measure(generator: Generator, detector: Detector, samples: int = SAMPLES, data: Data | None = None,
            batch: int = 50) -> dict:
    """The Fréchet distance of a generator's images to real ones, with what one has to know to read it.

    Args:
        generator: driven by noise
        detector: gives the features
        samples: images of either side; more than the detector has features
        data: the real images; by default those of the generator's world
        batch: images at once

    Returns value, real_against_real (the distance of as many other real images, None where there are too few), detector,
    resize, samples.

    Raises ValueError for a generator that draws nothing by itself, and for too few samples or images.
    """
    if generator.driven_by == "images":
        raise ValueError(f"generator: {generator.name} is driven by images and draws none by itself; its card may have a "
                         "Fréchet distance")
    data = data or get_data(default_data(generator.world))
    if data.count is not None and data.count < samples:
        raise ValueError(f"samples: {samples} real images are wanted, {data.name} has {data.count}; give fewer samples, or "
                         "other data")
    drawn = torch.cat(list(_drawn(generator, detector, samples, batch)))
    if samples <= drawn.shape[1]:
        raise ValueError(f"samples: {samples} images do not give the covariance of {drawn.shape[1]} features "
                         f"({detector.name}); take at least {2 * drawn.shape[1]}")
    real = _real(data, detector, range(samples), generator.resolution, batch)
    enough = data.count is None or data.count >= 2 * samples
    more = _real(data, detector, range(samples, 2 * samples), generator.resolution, batch) if enough else None
    return dict(value=round(frechet_distance(drawn, real), 4),
                real_against_real=None if more is None else round(frechet_distance(more, real), 4),
                detector=detector.name, resize=detector.resize, samples=samples, data=data.name)


@torch.no_grad()
def _drawn(generator: Generator, detector: Detector, samples: int, batch: int) -> Iterator[Tensor]:
    for i in range(0, samples, batch):
        seeds = range(_FIRST_SEED + i, _FIRST_SEED + min(i + batch, samples))
        yield detector(generator.image(generator.prepare(generator.sample(seeds))).cpu())


def _real(data: Data, detector: Detector, numbers: range, size: int, batch: int) -> Tensor:
    return torch.cat([detector(data.images(numbers[i:i + batch], size)) for i in range(0, len(numbers), batch)])
