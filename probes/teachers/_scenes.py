"""The embedded teacher of the scenes world; `python -m zoo.train_teacher` made its weights and its card."""
from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from generators.checkpoints import check_shipped

from ..data.scenes import DEPTH_RANGE
from ._base import Teacher
from ._scenes_net import ScenesNet, decode

_FILES = Path(__file__).parent / "embedded"


class ScenesTeacher(Teacher):
    """Normals, metric z-depth, albedo and shading of rendered rooms. Height and width must be multiples of 16."""

    name = "scenes"
    intrinsics = ("normal", "depth", "albedo", "shading")
    worlds = ("scenes",)

    def __init__(self, folder: Path = _FILES):
        self.card = json.loads((folder / "scenes.json").read_text())
        self.version, self.licence = self.card["version"], self.card["licence"]
        weights = folder / "scenes.safetensors"
        self._fingerprint = check_shipped(weights, self.card)
        self.network = ScenesNet().requires_grad_(False).eval()
        self.network.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
        self.network.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        height, width = image.shape[-2:]
        if height % 16 or width % 16:
            raise ValueError(f"image: the scenes teacher needs height and width in multiples of 16, got "
                             f"{height}x{width}; resize it first")
        device = next(self.network.parameters()).device
        return decode(self.network(image.to(device, torch.float32)))[intrinsic]

    def options(self, intrinsic: str) -> dict:
        return dict(near=DEPTH_RANGE[0], far=DEPTH_RANGE[1]) if intrinsic == "depth" else {}

    def exact_errors(self, intrinsic: str) -> dict[str, float | str]:
        return {k: v for k, v in self.card["exact_errors"].items() if k.startswith(intrinsic) or isinstance(v, str)}

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def to(self, device: str | torch.device) -> ScenesTeacher:
        self.network.to(device)
        return self
