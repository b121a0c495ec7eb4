"""A folder of photographs as data, resized as the paper does: straight to a square."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..images import fit, gather, read_image
from ._base import Data


class ImageFolder(Data):
    """The images of a folder in the order of their names. Raises ValueError if there are fewer than ten."""

    world = "photographs"

    def __init__(self, folder: str | Path):
        self.name = str(Path(folder).resolve())
        self.paths = gather(folder)
        if len(self.paths) < 10:
            raise ValueError(f"data: {folder} holds {len(self.paths)} images; a probe needs at least 10, a fifth of which are "
                             "held out to score it")
        self.count = len(self.paths)

    def images(self, indices: Sequence[int], size: int) -> Tensor:
        return torch.stack([fit(read_image(self.paths[i]), size=size, policy="square").pixels for i in indices])

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(Path(path).read_bytes())
        return digest.hexdigest()
