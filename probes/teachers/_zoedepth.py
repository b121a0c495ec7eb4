"""ZoeDepth: depth in metres, of rooms (NYUv2), streets (KITTI), or both with a classifier that chooses.

Bhat et al. 2023 (arXiv 2302.12288). At test time the released code pads an image by reflection, which takes the ramp off its
borders, and averages it with its mirror image; both are on here unless turned off: `zoedepth:Intel/zoedepth-nyu?flip=false`.
"""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ._preparation import flipped
from ._transformers_depth import OPTIONS, TransformersDepthTeacher


class ZoeDepthTeacher(TransformersDepthTeacher):
    """z-depth [N, 1, H, W] in metres.

    Args:
        where: folder, owner/model on the hub, or its address
        flip: average with the prediction for the mirror image
        pad: pad by reflection, and cut that off again
        options: as `TransformersDepthTeacher`

    Raises as that does, and ValueError for a network of another kind.
    """

    kind = "zoedepth"
    choices = {**OPTIONS, "flip": bool, "pad": bool}

    def __init__(self, where: str | Path, flip: bool = True, pad: bool = True, **options):
        super().__init__(where, flip=flip, pad=pad, **options)
        self.flip = flip
        self.preparation = replace(self.preparation, reflect=pad)

    def _check_kind(self) -> None:
        if (found := self.config.get("model_type")) != "zoedepth":
            raise ValueError(f"teacher: {self.name} is a {str(found)!r:.60}, not a zoedepth; write transformers: instead")

    def _predict(self, x: Tensor) -> Tensor:
        # With several heads transformers lets a batch vote for one of them: an image would be labelled by its neighbours.
        several = len(self.config.get("bin_configurations") or ()) > 1
        return torch.cat([self._averaged(part) for part in x.split(1 if several else len(x))])

    def _averaged(self, x: Tensor) -> Tensor:
        found = super()._predict(x)
        return (found + flipped(super()._predict(flipped(x)))) / 2 if self.flip else found
