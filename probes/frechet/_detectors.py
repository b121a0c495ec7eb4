"""Detectors: what turns images into the features whose means and covariances a Fréchet distance compares."""
from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from generators._names import unknown


class DetectorError(RuntimeError):
    """A detector's weights are not here, or are not its own; the message says where to put them."""


class Detector(ABC):
    """Images -> features.

    Attributes:
        name: of network, layer and weights, as it stands beside every distance
        resize: how images come to the network's size; "none" where it takes any
    """

    name: str
    resize: str = "none"

    @property
    def digest(self) -> str:
        """sha256 of its name, its resize and the weights of the modules that it holds."""
        found = hashlib.sha256(f"{self.name}\n{self.resize}\n".encode())
        for attribute, module in sorted(vars(self).items()):
            if isinstance(module, nn.Module):
                for name, tensor in sorted(module.state_dict().items()):
                    found.update(f"{attribute}.{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                    found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """float [N, 3, H, W], nominally in [-1, 1] -> float32 [N, D] on the CPU."""
        return self.features(images.float().clamp(-1, 1)).float().cpu()

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """float [N, 3, H, W] in [-1, 1] -> [N, D]."""


class ScenesDetector(Detector):
    """The deepest features of the scenes world's teacher, averaged over positions: 160 of them."""

    name = "scenes teacher, deepest features averaged over positions (160)"

    def __init__(self) -> None:
        from ..teachers import get_teacher

        self.network = get_teacher("scenes", "normal").network

    def features(self, images: Tensor) -> Tensor:
        return self.network.features(images).mean((2, 3))


class ModuleDetector(Detector):
    """Any module that maps images in [-1, 1] to [N, D], or to [N, D, h, w], which is averaged over positions.

    Args:
        module: the network; it is put into evaluation mode
        name: what stands beside every distance; by default the module's class
        size: images are brought to this many pixels a side, bilinear with antialiasing; None leaves them as they are
    """

    def __init__(self, module: nn.Module, name: str | None = None, size: int | None = None):
        self.module, self.name, self.size = module.eval(), name or type(module).__name__, size
        self.resize = f"bilinear with antialiasing to {size}" if size else "none"

    def features(self, images: Tensor) -> Tensor:
        if self.size:
            images = nn.functional.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        found = self.module(images)
        if not isinstance(found, Tensor) or found.ndim not in (2, 4):
            raise ValueError(f"detector: {self.name} gave {tuple(found.shape) if isinstance(found, Tensor) else type(found)}; "
                             "expected a tensor [N, D] or [N, D, h, w]")
        return found if found.ndim == 2 else found.mean((2, 3))


def scene_features(batches: Iterable[Tensor]) -> Tensor:
    """Batches of images [N, 3, H, W] in [-1, 1] -> features [N, 160] of the scenes teacher's encoder."""
    detector = ScenesDetector()
    return torch.cat([detector(x) for x in batches])


def _inception(path: str | None) -> Detector:
    from ._inception import InceptionDetector

    return InceptionDetector(path)


def _dinov2(path: str | None) -> Detector:
    from ._dinov2 import DINOv2Detector

    return DINOv2Detector(path) if path else DINOv2Detector()


# kind -> (made from what follows the colon, description)
_KINDS: dict[str, tuple[Callable[[str | None], Detector], str]] = {
    "scenes": (lambda path: ScenesDetector(), "the scenes world's teacher (160); embedded"),
    "inception": (_inception, "Inception-v3 with the weights of FID, pool 3 (2048); inception:FILE"),
    "dinov2": (_dinov2, "DINOv2, class token; dinov2:FOLDER or a name on the hub")}


def detectors() -> dict[str, str]:
    """Every kind of detector, and what it is."""
    return {name: about for name, (_, about) in _KINDS.items()}


def get_detector(detector: str | Detector | nn.Module) -> Detector:
    """A detector by name (scenes, inception, inception:FILE, dinov2, dinov2:FOLDER), or made of a module.

    Raises UnknownNameError, or DetectorError where its weights are missing.
    """
    if isinstance(detector, Detector):
        return detector
    if isinstance(detector, nn.Module):
        return ModuleDetector(detector)
    kind, _, path = str(detector).partition(":")
    if kind not in _KINDS:
        raise unknown("detector", detector, _KINDS)
    if kind == "scenes" and path:
        raise unknown("detector", detector, _KINDS)
    return _KINDS[kind][0](path or None)
