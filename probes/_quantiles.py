"""Quantiles of images of any size: torch finds them of 2^24 values at most, which a photograph of 24 megapixels exceeds."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_MOST = 2**24


def quantiles(values: Tensor, shares: Sequence[float]) -> tuple[Tensor, ...]:
    """Of every row of float [N, P], NaN left out: one [N] for each share in [0, 1], NaN where a row has nothing else."""
    if values.shape[1] <= _MOST:
        found = values.nanquantile(torch.tensor(shares, dtype=values.dtype, device=values.device), dim=1)
    else:
        found = torch.from_numpy(np.nanquantile(values.detach().cpu().numpy(), shares, axis=1)).to(values)
    return tuple(found)
