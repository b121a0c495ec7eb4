"""Does the picture show it? A small convolutional network from the generator's output to the map, no feature of it seen.

A probe's skill is knowledge of the generator only as far as the picture itself does not give the answer away: shading may be
read off a rendered room by any small network. This one has the size of the LoRA it stands beside (within 5 %), is trained on
the same pairs by the same loss, and sees what a viewer sees: the picture, and where in it a pixel lies. What a LoRA knows above
it, the generator knew.

Residual blocks of a dilated 3×3 and a 1×1 convolution; pictures above 128 px go in as patches (space to depth), so that the
receptive field grows with them: 47 positions, at 256 px 94 pixels. For a generator whose output is in latents it predicts
pixels, and its loss is the intrinsic's, in pixels.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators import Generator, State

from ._base import Adapter
from ._lora import lora_size

DILATIONS = (1, 2, 4, 8, 4, 2, 1)
TOLERANCE = 0.05
_SIDE = 128         # positions along a side of the picture above which it goes in as patches


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int, dilation: int):
        super().__init__()
        self.spread = nn.Conv2d(width, hidden, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.silu(self.spread(x)))


class PictureNetwork(nn.Module):
    """image [N, 3, H, W] in [-1, 1] -> [N, 3, H, W]. At the start every block is the identity and the map is zero.

    Args:
        width: channels between the blocks
        hidden: channels within them, over all blocks: shared out equally, and what is left over to the first
        patch: H and W are cut into squares of so many pixels; what is left over is padded by the border's
    """

    def __init__(self, width: int, hidden: int, patch: int = 1):
        super().__init__()
        self.patch = patch
        self.stem = nn.Conv2d(3 * patch**2 + 2, width, 3, padding=1)
        each, over = divmod(hidden, len(DILATIONS))
        self.blocks = nn.ModuleList(_Block(width, each + (i < over), dilation) for i, dilation in enumerate(DILATIONS))
        self.head = nn.Conv2d(width, 3 * patch**2, 1)
        for layer in (self.head, *(block.mix for block in self.blocks)):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        image = F.pad(image, (0, -width % self.patch, 0, -height % self.patch), mode="replicate")
        x = F.pixel_unshuffle(image, self.patch)
        rows, columns = (torch.linspace(-1, 1, n, device=x.device) for n in x.shape[2:])
        where = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None].expand(len(x), -1, -1, -1)
        x = self.stem(torch.cat([x, where], 1))
        for block in self.blocks:
            x = block(x)
        return F.pixel_shuffle(self.head(F.silu(x)), self.patch)[:, :, :height, :width]


class Pixels(Adapter):
    """A `PictureNetwork` with as many parameters as the LoRA of this rank and scope.

    Raises ValueError where that LoRA is smaller than any such network.
    """

    method = "pixels"

    def __init__(self, generator: Generator, name: str, prompt: str | None = None, scope: str = "auto", rank: int = 8,
                 sites: list[str] | None = None, seed: int = 0):
        if rank < 1:
            raise ValueError(f"rank: expected at least 1, got {rank}; the paper uses 8")
        # Saved probes name the sites whose LoRA they were measured by.
        self._sites = generator.sites(generator.scopes[0] if scope == "auto" else scope) if sites is None else list(sites)
        super().__init__(generator, name, prompt)
        self.aim = lora_size(generator, rank=rank, sites=self._sites)
        patch = 2 ** max(0, math.ceil(math.log2(generator.resolution / _SIDE)))
        width, hidden = _widths(self.aim, patch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = PictureNetwork(width, hidden, patch).requires_grad_(False).to(generator.device)

    @property
    def output_space(self) -> str:
        return "pixels"

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    @property
    def site_names(self) -> list[str]:
        """Those of the LoRA that its size is measured by."""
        return list(self._sites)

    def forward(self, state: State) -> Tensor:
        with torch.no_grad():
            image = self.generator.image(state)
        return self.network(image.to(self.generator.device))

    def regress(self, state: State, target: Tensor, seeds: list[int] | None = None) -> tuple[Tensor, Tensor]:
        return self.forward(state), target

    @contextmanager
    def _applied(self) -> Iterator[None]:
        yield


def _count(width: int, hidden: int, patch: int) -> int:
    ends = 9 * (3 * patch**2 + 2) * width + width + 3 * patch**2 * (width + 1)
    return ends + hidden * (10 * width + 1) + len(DILATIONS) * width


def _widths(aim: int, patch: int) -> tuple[int, int]:
    """(width, hidden) of the network whose count is within the tolerance and whose blocks are most nearly as wide within as
    between them."""
    found = []
    for width in range(1, 2 + math.isqrt(aim)):
        base, slope = _count(width, 0, patch), _count(width, 1, patch) - _count(width, 0, patch)
        hidden = max(len(DILATIONS), round((aim - base) / slope))
        if abs(_count(width, hidden, patch) / aim - 1) <= TOLERANCE:
            found.append((abs(math.log(hidden / len(DILATIONS) / width)), width, hidden))
    if not found:
        raise ValueError(f"rank: the LoRA that this is measured by has {aim} parameters, and no network on pixels comes within "
                         f"{TOLERANCE:.0%} of that; choose a higher rank or a larger scope")
    return min(found)[1:]
