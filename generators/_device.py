"""Where networks compute, by name."""
from __future__ import annotations

import os

import torch


def _own_gpu() -> str:
    """The GPU of this process, where a launcher started several."""
    rank = os.environ.get("LOCAL_RANK", "")
    return f"cuda:{int(rank) % torch.cuda.device_count()}" if rank.isdigit() else "cuda"


def chosen(device: str | torch.device) -> torch.device:
    """cpu, cuda, cuda:1, …, or auto, which is a GPU where there is one. Raises ValueError for a device that torch does not
    know, and for a GPU where there is none."""
    try:
        place = torch.device((_own_gpu() if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device: expected 'cpu', 'cuda', a GPU by its number, 'cuda:1', or 'auto', got {device!r}") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda was asked for, but this torch sees no CUDA device; use device='cpu' or 'auto'")
    return place
