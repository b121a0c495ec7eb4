"""Memory formats: whatever comes in, results are channels_last where the input was, contiguous otherwise."""
from __future__ import annotations

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """The dense format of x, or the one to copy it to."""
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=memory_format(x))
