"""DINOv2 as a detector: the class token (Stein et al. 2023, arXiv 2306.04675, who find it closer to human judgement than
Inception's features, with ViT-L/14)."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from ._detectors import Detector, DetectorError

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)      # of ImageNet, as the network was trained


class DINOv2Detector(Detector):
    """The class token after the last normalisation, of transformers' Dinov2Model, with or without registers.

    Args:
        where: a folder with config.json and model.safetensors, or a name on the hub
        size: images are brought to this many pixels a side, bicubic with antialiasing

    Raises DetectorError where neither is there.
    """

    def __init__(self, where: str = "facebook/dinov2-large", size: int = 224):
        from transformers import AutoModel

        try:
            self.network = AutoModel.from_pretrained(where, use_safetensors=True, trust_remote_code=False).eval()
        except (OSError, ValueError) as error:
            raise DetectorError(f"detector: {where} is neither a folder with config.json and model.safetensors nor to be had "
                                "from the hub now; fetch it once where there is a connection, or give a folder: "
                                f"dinov2:FOLDER ({str(error).splitlines()[0]})") from error
        if not self.network.config.model_type.startswith("dinov2"):
            raise DetectorError(f"detector: {where} is a {self.network.config.model_type}, no DINOv2; give dinov2:FOLDER")
        patch = self.network.config.patch_size
        if size % patch:
            raise ValueError(f"size: expected a multiple of the patch, {patch}, got {size}")
        self.size, self.resize = size, f"bicubic with antialiasing to {size}"
        self.name = f"DINOv2 {where}, class token ({self.network.config.hidden_size})"

    def features(self, images: Tensor) -> Tensor:
        x = nn.functional.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True).clamp(-1, 1)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
        return self.network(pixel_values=((x + 1) / 2 - mean) / std).last_hidden_state[:, 0]
