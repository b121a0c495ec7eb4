"""What a long training keeps on disk: its whole state, written whole or not at all, and snapshots along the way."""
from __future__ import annotations

import os
from pathlib import Path

import torch


def save_atomically(value: object, path: Path) -> None:
    part = path.with_suffix(path.suffix + ".tmp")
    with open(part, "wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def load_state(path: Path) -> dict | None:
    return torch.load(path, weights_only=True) if path.exists() else None
