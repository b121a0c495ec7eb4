"""The alias-free generator: mapping network, synthesis network, and the two together.

Written from StyleGAN3 (arXiv 2106.12423) and StyleGAN-XL (arXiv 2202.00273). Modules carry the names of published
checkpoints (`synthesis.L3_52_512.affine`, ...). Parameters differ from a checkpoint's in one way: the run-time gains of
equalised learning rates are folded in (see `_gains.py`), so that every w -> s affine is a plain `nn.Linear` which an
adapter may wrap as it is.
"""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._config import StyleGANXLConfig
from ._gains import initialise
from ._layers import FourierInput, SynthesisLayer, full_precision

TRUNCATE_TO = ("class", "global")


def normalise_second_moment(x: Tensor) -> Tensor:
    """x: [N, D] scaled to a mean square of 1 per row."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class Mapping(nn.Module):
    """The mapping network: z (and class c) to w, with truncation.

    StyleGAN-XL's class enters as mean features of a pretrained classifier, projected to z's width (section 3.1), and
    its truncation goes to the mean w of the class.
    """

    def __init__(self, config: StyleGANXLConfig) -> None:
        super().__init__()
        self.config = config
        if config.embedding == "linear":
            self.embed = nn.Linear(config.c_dim, config.w_dim)
        elif config.embedding == "pretrained":
            self.embed = nn.Embedding(config.embed_rows, config.embed_dim)
            self.embed_proj = nn.Linear(config.embed_dim, config.z_dim)
        widths = config.mapping_widths
        for i in range(config.mapping_layers):
            self.add_module(f"fc{i}", nn.Linear(widths[i], widths[i + 1]))
        shape = (config.c_dim, config.w_dim) if config.class_averages else (config.w_dim,)
        self.register_buffer("w_avg", torch.zeros(shape))

    def forward(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0,
                truncation_cutoff: int | None = None, truncate_to: str = "class") -> Tensor:
        """Maps latents to one w per layer.

        Args:
            z: float [N, z_dim], standard normal.
            c: classes, one-hot [N, c_dim] or as whole numbers [N]; None for an unconditional generator.
            truncation_psi: 1 leaves w as it is, 0 replaces it by its mean.
            truncation_cutoff: how many of the first rows of ws to truncate; None for all.
            truncate_to: which mean, where there is one for every class: the "class"'s own, or the "global" one.

        Returns:
            ws: float32 [N, num_ws, w_dim].
        """
        config = self.config
        _check_width("z", z, config.z_dim, "z_dim")
        if truncate_to not in TRUNCATE_TO:
            raise ValueError(f"truncate_to={truncate_to!r}: expected one of {', '.join(map(repr, TRUNCATE_TO))}")
        index = self._classes(c, z)
        # Small, and its rounding would move the whole image: never in reduced precision.
        with full_precision(z):
            x = normalise_second_moment(z.to(self.w_avg.dtype))
            if index is not None:
                x = torch.cat([x, normalise_second_moment(self._embed(index))], 1)
            for i in range(config.mapping_layers):
                x = math.sqrt(2) * F.leaky_relu(getattr(self, f"fc{i}")(x), 0.2)
            ws = x[:, None].expand(-1, config.num_ws, -1)
            if truncation_psi == 1:
                return ws.contiguous()
            centre = self.w_avg
            if config.class_averages:
                centre = self.w_avg.mean(0) if truncate_to == "global" else self.w_avg[index][:, None]
            truncated = torch.lerp(centre.expand_as(ws), ws, truncation_psi)
            if truncation_cutoff is None:
                return truncated
            return torch.cat([truncated[:, :truncation_cutoff], ws[:, truncation_cutoff:]], 1)

    def _classes(self, c: Tensor | None, z: Tensor) -> Tensor | None:
        """[N] class numbers, checked; None without classes."""
        c_dim = self.config.c_dim
        if c_dim == 0:
            return None
        if c is None:
            raise ValueError(f"c is missing: the generator is conditional, pass class numbers or one-hot [N, {c_dim}]")
        if c.ndim == 1 and not c.is_floating_point():
            index = c.long()
        else:
            _check_width("c", c, c_dim, "c_dim")
            index = c.argmax(1)
        if len(index) != len(z):
            raise ValueError(f"c has {len(index)} rows, z {len(z)}; expected one class for each latent")
        return index

    def _embed(self, index: Tensor) -> Tensor:
        if self.config.embedding == "linear":
            return self.embed(F.one_hot(index, self.config.c_dim).to(self.w_avg.dtype))
        return F.leaky_relu(self.embed_proj(self.embed(index)), 0.2)         # its gain goes in the normalisation

    @torch.no_grad()
    def update_w_avg(self, w: Tensor, c: Tensor | None = None) -> None:
        """Moves the running mean of w, of every class where there are such, towards w: [N, w_dim], untruncated.

        For training only. c as in `forward`.
        """
        _check_width("w", w, self.config.w_dim, "w_dim")
        w, rate = w.detach().to(self.w_avg.dtype), 1 - self.config.w_avg_beta
        if not self.config.class_averages:
            self.w_avg.lerp_(w.mean(0), rate)
            return
        index = self._classes(c, w)
        counts = torch.zeros_like(self.w_avg[:, 0]).index_add_(0, index, torch.ones_like(w[:, 0]))
        means = torch.zeros_like(self.w_avg).index_add_(0, index, w) / counts.clamp_min(1)[:, None]
        self.w_avg.lerp_(means, rate * (counts > 0).to(w.dtype)[:, None])


class Synthesis(nn.Module):
    """The synthesis network: ws to image."""

    def __init__(self, config: StyleGANXLConfig) -> None:
        super().__init__()
        self.config = config
        self.input = FourierInput(config.input, config.w_dim)
        for layer in config.layers:
            self.add_module(layer.name, SynthesisLayer(layer, config.w_dim, config.magnitude_ema_beta))

    def layers(self) -> list[SynthesisLayer]:
        """The layers in the order in which the image passes them, ToRGB last."""
        return [getattr(self, layer.name) for layer in self.config.layers]

    def forward(self, ws: Tensor, update_emas: bool = False) -> Tensor:
        """Draws images.

        Args:
            ws: float [N, num_ws, w_dim].
            update_emas: also update the layers' running magnitudes. For training only.

        Returns:
            float32 [N, img_channels, H, W], nominally in [-1, 1], not clamped.
        """
        config = self.config
        if ws.ndim != 3 or ws.shape[1:] != (config.num_ws, config.w_dim):
            raise ValueError(f"ws has shape {list(ws.shape)}, expected [N, {config.num_ws}, {config.w_dim}]; "
                             "to use one w for all layers pass w[:, None].expand(-1, num_ws, -1)")
        ws = ws.to(self.input.weight.dtype)
        x = self.input(ws[:, 0])
        for i, layer in enumerate(self.layers(), start=1):
            x = layer(x, ws[:, i], update_emas)
        return x * config.output_scale

    @torch.no_grad()
    def calibrate(self, batches: list[Tensor]) -> None:
        """Sets the running magnitudes to the mean over `batches` of ws: [N, num_ws, w_dim] each.

        A fresh network's magnitudes are all 1, which no layer's input has: its images would be far too bright or too
        faint. Every layer is measured behind layers that are calibrated already.
        """
        batches = [ws.to(self.input.weight.dtype) for ws in batches]
        images = [self.input(ws[:, 0]) for ws in batches]
        samples = sum(len(x) for x in images)
        for i, layer in enumerate(self.layers(), start=1):
            layer.magnitude_ema.copy_(sum(x.float().square().mean() * len(x) for x in images) / samples)
            images = [layer(x, ws[:, i]) for x, ws in zip(images, batches, strict=True)]


class StyleGANXLNetwork(nn.Module):
    """An alias-free generator, z to image, with freshly initialised weights.

    Args:
        config: the architecture
        seed: of the initial weights; None draws them from torch's global generator
    """

    def __init__(self, config: StyleGANXLConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)
        initialise(self, seed)

    def forward(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0,
                truncation_cutoff: int | None = None, update_emas: bool = False) -> Tensor:
        """z: [N, z_dim], c: classes -> [N, img_channels, H, W], nominally in [-1, 1], not clamped."""
        return self.synthesis(self.mapping(z, c, truncation_psi, truncation_cutoff), update_emas)


def _check_width(name: str, x: Tensor, width: int, field: str) -> None:
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(f"{name} has shape {list(x.shape)}, expected [N, {width}] ({field}={width})")
