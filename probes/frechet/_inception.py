"""Inception-v3 (Szegedy et al. 2015, arXiv 1512.00567) up to its last pooling, as the Fréchet Inception Distance uses it.

FID's weights are those of the graph of 2015-12-05; against the published architecture its average pooling leaves the padding
out of the mean, and the pooling branch of the last block takes the maximum. The names of weights are torchvision's, which the
usual conversion of them (pytorch-fid's release) has too.
"""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators._download import DownloadError, cached_path, fetch
from generators.checkpoints import CheckpointError
from generators.checkpoints._torch_file import load_torch

from ._detectors import Detector, DetectorError

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
_FILE = "pt_inception-2015-12-05-6726825d.pth"
_SIZE = 299

Step = tuple[str, int, tuple[int, int], int]            # name, channels, kernel, stride


class _Unit(nn.Module):
    """Convolution without bias, normalisation, ReLU."""

    def __init__(self, before: int, after: int, kernel: tuple[int, int], stride: int = 1, pad: bool = True):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if pad and stride == 1 else 0
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Block(nn.Module):
    """Branches side by side, each a chain of units, and a pooling branch; joined along the channels in that order.

    Args:
        before: channels that come in
        chains: of the branches; the last steps of one whose names end in a and b run side by side
        pool: "average" or "max" with a 1×1 unit behind it, or "shrink", which halves the resolution
        pooled: channels of that unit
    """

    def __init__(self, before: int, chains: list[list[Step]], pool: str = "average", pooled: int = 0):
        super().__init__()
        self.pool, self.after, self._chains = pool, pooled or before, []
        for chain in chains:
            width, names = before, []
            for name, channels, kernel, stride in chain:
                setattr(self, name, _Unit(width, channels, kernel, stride))
                width = width if name.endswith("a") else channels           # its twin reads what it reads
                names.append(name)
            forked = names[-1].endswith("b")
            self._chains.append((names[:-2], names[-2:]) if forked else (names, []))
            self.after += chain[-1][1] * (2 if forked else 1)
        if pooled:
            self.branch_pool = _Unit(before, pooled, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for names, twins in self._chains:
            y = x
            for name in names:
                y = getattr(self, name)(y)
            found += [getattr(self, name)(y) for name in twins] or [y]
        if self.pool == "average":
            y = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        else:
            y = F.max_pool2d(x, 3, 2) if self.pool == "shrink" else F.max_pool2d(x, 3, 1, 1)
        return torch.cat([*found, y if self.pool == "shrink" else self.branch_pool(y)], 1)


def _small(before: int, pooled: int) -> _Block:
    """35×35 (Figure 5 of the paper): 5×5 and two 3×3 side by side."""
    return _Block(before, [[("branch1x1", 64, (1, 1), 1)],
                           [("branch5x5_1", 48, (1, 1), 1), ("branch5x5_2", 64, (5, 5), 1)],
                           [("branch3x3dbl_1", 64, (1, 1), 1), ("branch3x3dbl_2", 96, (3, 3), 1),
                            ("branch3x3dbl_3", 96, (3, 3), 1)]], pooled=pooled)


def _middle(c: int) -> _Block:
    """17×17 (Figure 6): 7×7 as 1×7 and 7×1."""
    flat, high = (1, 7), (7, 1)
    return _Block(768, [[("branch1x1", 192, (1, 1), 1)],
                        [("branch7x7_1", c, (1, 1), 1), ("branch7x7_2", c, flat, 1), ("branch7x7_3", 192, high, 1)],
                        [("branch7x7dbl_1", c, (1, 1), 1), ("branch7x7dbl_2", c, high, 1), ("branch7x7dbl_3", c, flat, 1),
                         ("branch7x7dbl_4", c, high, 1), ("branch7x7dbl_5", 192, flat, 1)]], pooled=192)


def _last(before: int, pool: str) -> _Block:
    """8×8 (Figure 7): 1×3 and 3×1 side by side."""
    def fork(name: str) -> list[Step]:
        return [(f"{name}a", 384, (1, 3), 1), (f"{name}b", 384, (3, 1), 1)]

    return _Block(before, [[("branch1x1", 320, (1, 1), 1)],
                           [("branch3x3_1", 384, (1, 1), 1), *fork("branch3x3_2")],
                           [("branch3x3dbl_1", 448, (1, 1), 1), ("branch3x3dbl_2", 384, (3, 3), 1), *fork("branch3x3dbl_3")]],
                  pool, 192)


class Inception(nn.Module):
    """float [N, 3, 299, 299] in [-1, 1] -> [N, 2048]; 21,785,568 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Unit(3, 32, (3, 3), 2)
        self.Conv2d_2a_3x3 = _Unit(32, 32, (3, 3), pad=False)
        self.Conv2d_2b_3x3 = _Unit(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = _Unit(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = _Unit(80, 192, (3, 3), pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _small(192, 32), _small(256, 64), _small(288, 64)
        self.Mixed_6a = _Block(288, [[("branch3x3", 384, (3, 3), 2)],
                                     [("branch3x3dbl_1", 64, (1, 1), 1), ("branch3x3dbl_2", 96, (3, 3), 1),
                                      ("branch3x3dbl_3", 96, (3, 3), 2)]], "shrink")
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (_middle(c) for c in (128, 160, 160, 192))
        self.Mixed_7a = _Block(768, [[("branch3x3_1", 192, (1, 1), 1), ("branch3x3_2", 320, (3, 3), 2)],
                                     [("branch7x7x3_1", 192, (1, 1), 1), ("branch7x7x3_2", 192, (1, 7), 1),
                                      ("branch7x7x3_3", 192, (7, 1), 1), ("branch7x7x3_4", 192, (3, 3), 2)]], "shrink")
        self.Mixed_7b, self.Mixed_7c = _last(1280, "average"), _last(2048, "max")

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed_"):
                x = block(x)
        return x.mean((2, 3))


class InceptionDetector(Detector):
    """The 2048 features of FID, images brought to 299×299 as pytorch-fid does.

    Args:
        path: a file of torch.save or safetensors with the weights' dictionary; by default it is fetched once into the cache

    TorchScript files are refused: they are programs.

    Raises DetectorError where there is no such file, where it cannot be fetched, and where it holds something else.
    """

    name, resize = "Inception-v3 of 2015-12-05, pool 3 (2048)", "bilinear without antialiasing to 299"

    def __init__(self, path: str | Path | None = None):
        network = Inception()
        weights = _weights(Path(path) if path else _fetched())
        wanted = {k for k in network.state_dict() if not k.endswith("num_batches_tracked")}
        missing = sorted(wanted - weights.keys())
        if missing:
            raise DetectorError(f"detector: {path or _FILE} has no {missing[0]} (and {len(missing) - 1} more are missing), "
                                "so it is no Inception-v3 by torchvision's names; give inception:FILE of one")
        try:
            network.load_state_dict({k: weights[k].float() for k in wanted}, strict=False)
        except RuntimeError as error:
            raise DetectorError(f"detector: the weights in {path or _FILE} have other shapes: "
                                f"{str(error).splitlines()[-1].strip()}") from error
        self.network = network.eval()

    def features(self, images: Tensor) -> Tensor:
        return self.network(F.interpolate(images, (_SIZE, _SIZE), mode="bilinear", align_corners=False))


def _fetched() -> Path:
    try:
        return fetch(URL, filename=_FILE)
    except DownloadError as error:
        raise DetectorError(f"detector: the weights of inception are not here and cannot be fetched now; put {_FILE} of "
                            f"{URL} at {cached_path(URL, _FILE)}, or give inception:FILE") from error


def _weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DetectorError(f"detector: {path} is not there; give inception:FILE with the weights of {URL}")
    if path.suffix == ".safetensors":
        import safetensors
        import safetensors.torch

        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise DetectorError(f"detector: {path} is damaged: {error}") from error
    try:
        found = load_torch(path, "Inception-v3 weights file")
    except CheckpointError as error:
        raise DetectorError(f"detector: {path} cannot be read as weights ({error}); a TorchScript file is a program and is "
                            f"not run: give the dictionary of weights, {_FILE}") from error
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise DetectorError(f"detector: {path} holds no dictionary of weights; give inception:FILE with those of {URL}")
    return found
