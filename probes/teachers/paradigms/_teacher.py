"""The paradigms teacher: the embedded network brought to images of any size; `python -m zoo.train_paradigms` made it."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from generators.checkpoints import check_shipped

from ...data.colour import linear_to_srgb, srgb_to_linear
from .._base import Teacher
from ._network import FLOOR, ParadigmsNet, log_light

SMALLEST = 16
_FILES = Path(__file__).parent.parent / "embedded"


class ParadigmsTeacher(Teacher):
    """sRGB albedo [N, 3, H, W] and achromatic sRGB shading [N, 1, H, W], both in [0, 1], of any image of 16 pixels or more.

    Albedo × shading is the image in linear light, but where the albedo would exceed 1. The image leaves the scale between
    the two open: as with RetinexTeacher the shading's brightest percent is white. Compare by a scale-invariant error where
    that matters. On rooms it is nearer to the exact maps than colour Retinex, and hardly nearer than the soft Retinex that its
    training starts from (`untrained` in its card).

    Args:
        averaging: the network sees so many turned and mirrored copies, 1 to 8, and their log shadings are averaged, as
            Forsyth and Rock average over what should not matter. Here it changes the error on scenes by under a percent
        folder: where the weights and their card lie
    """

    name = "paradigms"
    intrinsics = ("albedo", "shading")
    worlds = ("photographs", "scenes")
    source = "Forsyth and Rock, Intrinsic Image Decomposition using Paradigms, arXiv 2011.10512"
    resolution = 128
    batch = 16

    def __init__(self, averaging: int = 1, folder: Path = _FILES):
        if not 1 <= averaging <= 8:
            raise ValueError(f"averaging: a picture has 8 turned and mirrored copies, got {averaging}; give 1 to 8")
        self.averaging = averaging
        self.card = json.loads((folder / "paradigms.json").read_text())
        self.version, self.licence = self.card["version"], self.card["licence"]
        weights = folder / "paradigms.safetensors"
        check_shipped(weights, self.card)
        self._fingerprint = hashlib.sha256(weights.read_bytes() + f"averaging {averaging}".encode()).hexdigest()
        network = ParadigmsNet()
        network.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
        self.network = network.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        if min(image.shape[-2:]) < SMALLEST:
            raise ValueError(f"image: the paradigms teacher needs {SMALLEST}x{SMALLEST} pixels or more, got "
                             f"{image.shape[-2]}x{image.shape[-1]}; enlarge it first")
        device = next(self.network.parameters()).device
        return decompose(self.network, (image.to(device, torch.float32).clamp(-1, 1) + 1) / 2, self.averaging,
                         self.resolution)[intrinsic]

    def exact_errors(self, intrinsic: str) -> dict[str, float | str]:
        return {k: v for k, v in self.card["exact_errors"].items() if k.startswith(intrinsic) or isinstance(v, str)}

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def to(self, device: str | torch.device) -> ParadigmsTeacher:
        self.network.to(device)
        return self


def decompose(network: ParadigmsNet, image: Tensor, averaging: int = 1, resolution: int | None = 128) -> dict[str, Tensor]:
    """sRGB-encoded image [N, 3, H, W] in [0, 1] -> sRGB-encoded albedo [N, 3, H, W] and shading [N, 1, H, W].

    Args:
        averaging: copies to average over, 1 to 8
        resolution: shorter side at which the network works on larger images; None: at their own
    """
    light = srgb_to_linear(image).clamp_min(FLOOR)
    small = image if resolution is None else _shrunk(image, light, resolution)
    shading = _log_shading(network, small, averaging)
    if small is not image:
        shading = _enlarged(shading, small, image)
    step = max(1, min(shading.shape[-2:]) // 512)           # every pixel of a photograph is more than the quantile needs
    white = shading[..., ::step, ::step].flatten(1).quantile(0.99, dim=1)[:, None, None, None]
    shading = (shading - white).clamp(-6, 0).exp()
    return dict(albedo=linear_to_srgb((light / shading).clamp(0, 1)), shading=linear_to_srgb(shading))


def _shrunk(image: Tensor, light: Tensor, resolution: int) -> Tensor:
    height, width = image.shape[-2:]
    if min(height, width) <= resolution:
        return image
    scale = resolution / min(height, width)
    size = (max(SMALLEST, round(height * scale)), max(SMALLEST, round(width * scale)))
    return linear_to_srgb(F.interpolate(light, size, mode="area")).clamp(0, 1)


def _log_shading(network: ParadigmsNet, image: Tensor, averaging: int) -> Tensor:
    """The mean over turned and mirrored copies of the log shading, [N, 1, H, W]."""
    total = torch.zeros_like(image[:, :1])
    for k in (0, 4, 2, 6, 1, 5, 3, 7)[:averaging]:          # bit 2 mirrors, the others turn
        turned = torch.rot90(image, k % 4, (2, 3))
        turned = turned.flip(3) if k & 4 else turned
        out = network(turned.contiguous(memory_format=torch.channels_last))
        out = torch.rot90(out.flip(3) if k & 4 else out, -(k % 4), (2, 3))
        total += out
    return total / averaging


def _enlarged(shading: Tensor, small: Tensor, image: Tensor, radius: int = 2, eps: float = 0.02) -> Tensor:
    """Log shading at the size of `image`, its creases and shadows where the image's are.

    A guided filter (He and Sun 2015, arXiv 1505.00996): around every small pixel the log shading is a linear function of log
    brightness; its two coefficients are enlarged, not the shading itself.
    """
    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, (radius,) * 4, "replicate"), 2 * radius + 1, 1)

    guide = log_light(small).mean(1, keepdim=True)
    m, s = mean(guide), mean(shading)
    slope = (mean(guide * shading) - m * s) / (mean(guide * guide) - m * m + eps)
    slope = slope.clamp(0, 1)
    slope, level = mean(slope), mean(s - slope * m)
    slope, level = (F.interpolate(x, image.shape[-2:], mode="bilinear", align_corners=False) for x in (slope, level))
    return slope * log_light(image).mean(1, keepdim=True) + level
