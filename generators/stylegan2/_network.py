"""The StyleGAN2 generator: mapping network, synthesis network, and the two together.

Written from StyleGAN (arXiv 1812.04948), StyleGAN2 (1912.04958) and StyleGAN2-ADA (2006.06676). Modules carry the
names of ADA's checkpoints (`synthesis.b8.conv0.affine`, ...). Parameters differ from a checkpoint's in one way: the
run-time gains of equalised learning rates are folded in (see `_gains.py`), so that every w -> s affine is a plain
`nn.Linear` which an adapter may wrap as it is.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._config import StyleGAN2Config
from ._gains import initialise
from ._layers import GAINS, NOISE_MODES, SynthesisLayer, ToRGB, activate, filter_kernel, full_precision, upsample2d


def normalise_second_moment(x: Tensor) -> Tensor:
    """x: [N, D] scaled to a mean square of 1 per row."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class Mapping(nn.Module):
    """The mapping network f: z (and class c) to w, with truncation (StyleGAN, section 2 and appendix B)."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        embed_dim = (config.embed_dim or config.w_dim) if config.c_dim else 0
        if config.c_dim:
            self.embed = nn.Linear(config.c_dim, embed_dim)
        hidden = config.mapping_dim or config.w_dim
        widths = [config.z_dim + embed_dim] + [hidden] * (config.mapping_layers - 1) + [config.w_dim]
        for i in range(config.mapping_layers):
            self.add_module(f"fc{i}", nn.Linear(widths[i], widths[i + 1]))
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(
        self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
    ) -> Tensor:
        """Maps latents to one w per layer.

        Args:
            z: float [N, z_dim], standard normal.
            c: float [N, c_dim], one-hot classes; None for an unconditional generator.
            truncation_psi: 1 leaves w as it is, 0 replaces it by its mean (StyleGAN, appendix B).
            truncation_cutoff: How many of the first rows of ws to truncate; None for all.

        Returns:
            ws: float32 [N, num_ws, w_dim].
        """
        config = self.config
        _check_width("z", z, config.z_dim, "z_dim")
        # Small, and its rounding would move the whole image: never in reduced precision.
        with full_precision(z):
            x = normalise_second_moment(z.to(self.w_avg.dtype))
            if config.c_dim:
                if c is None:
                    raise ValueError(f"c is missing: the generator is conditional, pass c of shape [N, {config.c_dim}]")
                _check_width("c", c, config.c_dim, "c_dim")
                x = torch.cat([x, normalise_second_moment(self.embed(c.to(x.dtype)))], 1)
            gain = GAINS[config.activation]
            for i in range(config.mapping_layers):
                x = gain * activate(getattr(self, f"fc{i}")(x), config.activation)
            ws = x[:, None].expand(-1, config.num_ws, -1)
            if truncation_psi == 1:
                return ws.contiguous()
            truncated = torch.lerp(self.w_avg.expand_as(ws), ws, truncation_psi)
            if truncation_cutoff is None:
                return truncated
            return torch.cat([truncated[:, :truncation_cutoff], ws[:, truncation_cutoff:]], 1)

    @torch.no_grad()
    def update_w_avg(self, w: Tensor) -> None:
        """Moves the running mean of w towards the mean of w: [N, w_dim], untruncated. For training only."""
        _check_width("w", w, self.config.w_dim, "w_dim")
        self.w_avg.lerp_(w.detach().to(self.w_avg.dtype).mean(0), 1 - self.config.w_avg_beta)


class SynthesisBlock(nn.Module):
    """The layers of one resolution."""

    def __init__(self, config: StyleGAN2Config, resolution: int) -> None:
        super().__init__()
        self.resolution, self.first_ws = resolution, config.first_ws(resolution)
        self.fp16 = config.uses_fp16(resolution)
        channels = config.channels_at(resolution)
        in_channels = channels if resolution == 4 else config.channels_at(resolution // 2)

        def layer(inputs: int, up: bool) -> SynthesisLayer:
            return SynthesisLayer(
                inputs,
                channels,
                config.w_dim,
                resolution,
                up,
                config.resample_filter,
                config.activation,
                config.conv_clamp,
                config.use_noise,
            )

        if resolution == 4:
            self.const = nn.Parameter(torch.empty(channels, 4, 4))
        else:
            self.conv0 = layer(in_channels, up=True)
        self.conv1 = layer(channels, up=False)
        self.torgb = None
        if config.has_torgb(resolution):
            self.torgb = ToRGB(channels, config.img_channels, config.w_dim, config.conv_clamp)
        self.skip = nn.Conv2d(in_channels, channels, 1, bias=False) if config.has_skip(resolution) else None
        if resolution > 4:
            self.register_buffer("kernel", filter_kernel(config.resample_filter), persistent=False)

    def forward(
        self,
        x: Tensor | None,
        image: Tensor | None,
        ws: Tensor,
        noise_mode: str = "const",
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """x: [N, I, r/2, r/2] and image: [N, C, r/2, r/2] (None at 4x4), ws: [N, num_ws, w_dim] -> both at r."""
        i = self.first_ws
        half = self.fp16 and ws.device.type == "cuda"
        if x is None:
            x = self.const.expand(ws.shape[0], -1, -1, -1)
            x = self.conv1(x, ws[:, i], noise_mode, generator)
            i += 1
        else:
            x = x.to(torch.float16 if half else ws.dtype if x.dtype == torch.float16 else x.dtype)
            residual = x
            x = self.conv0(x, ws[:, i], noise_mode, generator)
            x = self.conv1(x, ws[:, i + 1], noise_mode, generator)
            i += 2
            if self.skip is not None:
                residual = upsample2d(F.conv2d(residual, self.skip.weight.to(residual.dtype)), self.kernel)
                x = (x + residual) * math.sqrt(0.5)
        if image is not None:
            with full_precision(image):
                image = upsample2d(image, self.kernel)
        if self.torgb is not None:
            rgb = self.torgb(x, ws[:, i])
            image = rgb if image is None else image + rgb
        return x, image


class Synthesis(nn.Module):
    """The synthesis network g: ws to image."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        for resolution in config.resolutions:
            self.add_module(f"b{resolution}", SynthesisBlock(config, resolution))

    def forward(
        self, ws: Tensor, noise_mode: str = "const", generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws images.

        Args:
            ws: float [N, num_ws, w_dim].
            noise_mode: "const" for the noise stored in the network, "random" for fresh noise, "none" for none.
            generator: Source of the random noise; None for torch's global one.

        Returns:
            float32 [N, img_channels, H, W], nominally in [-1, 1], not clamped.
        """
        config = self.config
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode={noise_mode!r}: expected one of {', '.join(map(repr, NOISE_MODES))}")
        if ws.ndim != 3 or ws.shape[1:] != (config.num_ws, config.w_dim):
            raise ValueError(
                f"ws has shape {list(ws.shape)}, expected [N, {config.num_ws}, {config.w_dim}]; "
                "to use one w for all layers pass w[:, None].expand(-1, num_ws, -1)"
            )
        ws = ws.to(self.b4.const.dtype)
        x = image = None
        for resolution in config.resolutions:
            x, image = getattr(self, f"b{resolution}")(x, image, ws, noise_mode, generator)
        return image


class StyleGAN2Network(nn.Module):
    """A StyleGAN2 generator, z to image, with freshly initialised weights.

    Args:
        config: The architecture.
        seed: Seed of the initial weights; None draws them from torch's global generator.
    """

    def __init__(self, config: StyleGAN2Config, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)
        initialise(self, seed)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """z: [N, z_dim], c: [N, c_dim] -> [N, img_channels, H, W], nominally in [-1, 1], not clamped."""
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff)
        return self.synthesis(ws, noise_mode, generator)


def _check_width(name: str, x: Tensor, width: int, field: str) -> None:
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(f"{name} has shape {list(x.shape)}, expected [N, {width}] ({field}={width})")
