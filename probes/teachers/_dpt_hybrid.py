"""DPT-hybrid (`vitb_rn50_384`), the network of Omnidata-v2: image -> dense map.

Ranftl et al. 2021 ("Vision Transformers for Dense Prediction", arXiv 2103.13413, section 3): three stages of a ResNet-50 turn
the image into patches for a ViT-B/16; two stages of the ResNet and two blocks of the ViT are read out, each is brought to the
width of the decoder, and residual fusion blocks add them up from the coarsest to the finest. The ResNet is BiT's (Kolesnikov
et al. 2020, arXiv 1912.11370, in the order of ResNet v1): standardised convolution weights, group norm, "same" padding.

Modules bear the names of the published checkpoints, so that these load as they are. Other than transformers' DPT it takes
pictures that are not square and heads of more than one channel.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 16
# Stored in the published files, and without a part in the output: the classifier, and half of the coarsest fusion block.
UNUSED = ("pretrained.model.norm.", "pretrained.model.head.", "scratch.refinenet4.resConfUnit1.")


def same_padding(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pads so that a stride s gives ceil(size / s) positions, the odd pixel below and to the right (TensorFlow's SAME)."""
    pads = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value) if any(pads) else x


class StandardisedConv(nn.Conv2d):
    """Convolution by weights of mean 0 and variance 1 per output channel; "same" padding, no bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride=stride, bias=False)

    def standardised(self) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        return (self.weight - mean) * (variance + 1e-8).rsqrt()

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(same_padding(x, self.kernel_size[0], self.stride[0]), self.standardised(), stride=self.stride)


class Shortcut(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv = StandardisedConv(inputs, outputs, stride=stride)
        self.norm = nn.GroupNorm(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up by four, each with group norm, around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, first: bool):
        super().__init__()
        middle = outputs // 4
        self.downsample = Shortcut(inputs, outputs, stride) if first else None
        self.conv1, self.norm1 = StandardisedConv(inputs, middle), nn.GroupNorm(32, middle)
        self.conv2, self.norm2 = StandardisedConv(middle, middle, 3, stride), nn.GroupNorm(32, middle)
        self.conv3, self.norm3 = StandardisedConv(middle, outputs), nn.GroupNorm(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return F.relu(self.norm3(self.conv3(x)) + shortcut)


class Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, depth: int, stride: int):
        super().__init__()
        self.blocks = nn.Sequential(*(Bottleneck(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1, i == 0)
                                      for i in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class ResNet(nn.Module):
    """[N, 3, H, W] -> features at strides 4, 8 and 16."""

    def __init__(self, width: int, depths: tuple[int, ...]):
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv, self.stem.norm = StandardisedConv(3, width, 7, 2), nn.GroupNorm(32, width)
        widths = [width, *(4 * width * 2**i for i in range(len(depths)))]
        self.stages = nn.Sequential(*(Stage(widths[i], widths[i + 1], depth, 1 if i == 0 else 2)
                                      for i, depth in enumerate(depths)))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu(self.stem.norm(self.stem.conv(x)))
        x = F.max_pool2d(same_padding(x, 3, 2, float("-inf")), 3, 2)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class HybridViT(nn.Module):
    """[N, 3, H, W], H and W multiples of 16 -> features of the ResNet, then tokens [N, 1 + H W / 256, width] of `read` blocks.

    Args:
        grid: patches along each side of the square that the position embeddings were trained for
    """

    def __init__(self, width: int, heads: int, depth: int, grid: int, stem: int, depths: tuple[int, ...],
                 read: tuple[int, ...]):
        super().__init__()
        self.read = read
        self.patch_embed = nn.Module()
        self.patch_embed.backbone = ResNet(stem, depths)
        self.patch_embed.proj = nn.Conv2d(4 * stem * 2 ** (len(depths) - 1), width, 1)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        features = self.patch_embed.backbone(image)
        patches = self.patch_embed.proj(features[-1])
        x = torch.cat([self.cls_token.expand(len(image), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = x + self._positions(*patches.shape[-2:])
        tokens = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.read:
                tokens.append(x)
        return features[:2], tokens

    def _positions(self, height: int, width: int) -> Tensor:
        grid = int((self.pos_embed.shape[1] - 1) ** 0.5)
        if (height, width) == (grid, grid):
            return self.pos_embed
        square = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (grid, grid))
        placed = F.interpolate(square, (height, width), mode="bilinear", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], placed.flatten(2).transpose(1, 2)], dim=1)


class Readout(nn.Module):
    """Tells every patch token of the class token ("project" in the paper, equation 5)."""

    def __init__(self, width: int):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, tokens: Tensor) -> Tensor:
        patches = tokens[:, 1:]
        return self.project(torch.cat([patches, tokens[:, :1].expand_as(patches)], dim=2))


class ResidualUnit(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Adds a level to what comes from below it, at twice the resolution."""

    def __init__(self, width: int, coarsest: bool = False):
        super().__init__()
        if not coarsest:
            self.resConfUnit1 = ResidualUnit(width)
        self.resConfUnit2 = ResidualUnit(width)
        self.out_conv = nn.Conv2d(width, width, 1)

    def forward(self, below: Tensor | None, level: Tensor) -> Tensor:
        x = level if below is None else below + self.resConfUnit1(level)
        return self.out_conv(_double(self.resConfUnit2(x)))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class DPTHybrid(nn.Module):
    """image: float [N, 3, H, W], H and W multiples of 32 -> float [N, channels, H, W], not negative.

    Args:
        channels: 3 for normals, 1 for depth
        width, heads, depth: of the transformer; `read` are the two of its blocks that are read out
        grid: patches along the side of a training image
        stem, depths: of the ResNet
        features: of the decoder
    """

    def __init__(self, channels: int, width: int = 768, heads: int = 12, depth: int = 12, grid: int = 24, stem: int = 64,
                 depths: tuple[int, ...] = (3, 4, 9), read: tuple[int, int] = (8, 11), features: int = 256):
        super().__init__()
        self.pretrained = nn.Module()
        self.pretrained.model = HybridViT(width, heads, depth, grid, stem, depths, read)
        # Indices 1 and 2 of the originals reshape tokens, which is a line in `forward`.
        self.pretrained.act_postprocess3 = nn.ModuleDict({"0": Readout(width), "3": nn.Conv2d(width, width, 1)})
        self.pretrained.act_postprocess4 = nn.ModuleDict({"0": Readout(width), "3": nn.Conv2d(width, width, 1),
                                                          "4": nn.Conv2d(width, width, 3, stride=2, padding=1)})
        self.scratch = nn.Module()
        for i, inputs in enumerate((4 * stem, 8 * stem, width, width), 1):
            setattr(self.scratch, f"layer{i}_rn", nn.Conv2d(inputs, features, 3, padding=1, bias=False))
            setattr(self.scratch, f"refinenet{i}", Fusion(features, coarsest=i == 4))
        self.scratch.output_conv = nn.ModuleDict({"0": nn.Conv2d(features, features // 2, 3, padding=1),
                                                  "2": nn.Conv2d(features // 2, 32, 3, padding=1),
                                                  "4": nn.Conv2d(32, channels, 1)})

    def forward(self, image: Tensor) -> Tensor:
        levels, tokens = self.pretrained.model(image)
        grid = (image.shape[-2] // PATCH, image.shape[-1] // PATCH)
        for read, stage in zip(tokens, (self.pretrained.act_postprocess3, self.pretrained.act_postprocess4), strict=True):
            x = stage["0"](read).transpose(1, 2).unflatten(2, grid)
            for name in sorted(stage.keys() - {"0"}):
                x = stage[name](x)
            levels.append(x)
        x = None
        for i in (4, 3, 2, 1):
            x = getattr(self.scratch, f"refinenet{i}")(x, getattr(self.scratch, f"layer{i}_rn")(levels[i - 1]))
        head = self.scratch.output_conv
        return F.relu(head["4"](F.relu(head["2"](_double(head["0"](x))))))
