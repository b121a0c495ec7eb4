"""What a long training keeps on disk: its whole state, written whole or not at all, and snapshots along the way."""
from __future__ import annotations

from pathlib import Path

import torch

from generators._files import atomic


def save_atomically(value: object, path: Path) -> None:
    with atomic(path) as temporary:
        torch.save(value, temporary)


def load_state(path: Path) -> dict | None:
    return torch.load(path, weights_only=True) if path.exists() else None
