"""Fréchet distance between two sets of features, and the features of the scenes world's detector.

d² = |μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½)  (Heusel et al. 2017, arXiv 1706.08500, equation 6). A value means
something only together with its detector and sample count: this is no FID.
"""
from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

DETECTOR = "scenes teacher, deepest features averaged over positions (160)"


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """a, b: features float [N, D], N > D."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # tr (Σ_a Σ_b)^½ through the symmetric Σ_a^½ Σ_b Σ_a^½, whose eigenvalues are the same and real.
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    trace = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * trace)


@torch.no_grad()
def scene_features(batches: Iterable[Tensor]) -> Tensor:
    """Batches of images [N, 3, H, W] in [-1, 1] -> features [N, 160] of the scenes teacher's encoder."""
    from .teachers import get_teacher

    network = get_teacher("scenes", "normal").network
    return torch.cat([network.features(x.clamp(-1, 1).float()).mean((2, 3)) for x in batches])
