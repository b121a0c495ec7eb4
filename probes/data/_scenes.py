"""The scenes world as data: images as a generator sees them, and their exact maps."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import Tensor

from ._base import Data
from .colour import linear_to_srgb
from .scenes import DEPTH_RANGE, render

HELD_OUT = 2_000_000        # the embedded generators and the teacher have seen scenes before this one


class Scenes(Data):
    """Scene HELD_OUT + i for index i: no embedded network has seen it. Images are sRGB-encoded."""

    name = "scenes"
    world = "scenes"
    exact = ("normal", "depth", "albedo", "shading")
    size = 64

    def images(self, indices: Sequence[int], size: int) -> Tensor:
        return linear_to_srgb(self._render(indices, size)["image"]) * 2 - 1

    def truth(self, indices: Sequence[int], size: int, intrinsic: str) -> Tensor:
        values = self._render(indices, size)[intrinsic]
        return linear_to_srgb(values) if intrinsic in ("albedo", "shading") else values

    def options(self, intrinsic: str) -> dict:
        return dict(near=DEPTH_RANGE[0], far=DEPTH_RANGE[1]) if intrinsic == "depth" else {}

    def _render(self, indices: Sequence[int], size: int) -> dict[str, Tensor]:
        """A bank asks for images and maps of the same scenes in turn: the last ones are kept."""
        key = (tuple(indices), size)
        if getattr(self, "_key", None) != key:
            self._key, self._maps = key, render([HELD_OUT + i for i in indices], size)
        return self._maps

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"scenes 1 {HELD_OUT}".encode()).hexdigest()
