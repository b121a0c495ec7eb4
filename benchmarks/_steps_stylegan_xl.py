"""The steps of StyleGAN-XL.

    composition       `Synthesis.forward`, where upsampling, activation and downsampling are an op each, channels last
    composition bf16  the same under autocast
    plain             `Synthesis.forward`: filtered_lrelu is one op (what `fit` runs)
    plain bf16        the same under autocast
    no adapters       plain, where the affines' own biases learn instead: LoRA's overhead is the difference to this
    floor             the bare convolutions of the same shapes, forward and backward to their input, and for the filters
                      one product of large matrices with as many multiplications as separable polyphase filters need,
                      forward and backward, without zeros or anything computed twice: what no filter on this machine
                      reaches, since a filter is no large product
    floor bf16        the same in bfloat16
"""
from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from unittest import mock

import torch
import torch.nn.functional as F
from _steps import Step, adapt, bare, random_target, training_step
from torch import Tensor

from generators import ops
from generators.stylegan_xl import LayerGeometry, StyleGANXLConfig, StyleGANXLNetwork, affine_names, schedule


def grown_config(stages: tuple[int, ...], stem_layers: int, head_layers: int, z_dim: int, w_dim: int, mapping_layers: int,
                 **widths: int) -> StyleGANXLConfig:
    """A stem and the heads that were grown on it, one after the other (StyleGAN-XL, section 3.2)."""
    config = None
    for resolution in stages:
        entry, layers = schedule(resolution, head_layers if config else stem_layers, stem=config, **widths)
        config = StyleGANXLConfig(img_resolution=resolution, z_dim=z_dim, w_dim=w_dim, mapping_layers=mapping_layers,
                                  input=entry, layers=layers, output_scale=0.25)
    return config


PRESETS: dict[str, tuple[Callable[[], StyleGANXLConfig], int]] = {
    # Widths and depths as published for FFHQ at 256 px: a stem at 16 px, heads at 32, 64, 128 and 256.
    "stylegan-xl-ffhq256": (lambda: grown_config((16, 32, 64, 128, 256), 10, 7, 64, 512, 2), 1),
    "stylegan-xl-embedded": (lambda: grown_config((32, 64), 6, 5, 128, 128, 4, channel_base=2048, channel_max=64), 8),
}


def composition(x: Tensor, fu: Tensor | None, fd: Tensor | None, b: Tensor, up: int, down: int, padding: tuple[int, ...],
                gain: float, slope: float, clamp: float | None) -> Tensor:
    """filtered_lrelu as it is defined, in the channels_last layout, where the filters are fastest."""
    x = (x + b.to(x.dtype)[:, None, None]).contiguous(memory_format=torch.channels_last)
    x = ops.upfirdn2d(x, fu, up=up, padding=padding, gain=up**2)
    x = ops.bias_act(x, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return ops.upfirdn2d(x, fd, down=down)


@contextlib.contextmanager
def composed() -> Iterator[None]:
    with mock.patch.object(ops, "filtered_lrelu", composition):
        yield


def make_network(config: StyleGANXLConfig, adapters: bool = True) -> StyleGANXLNetwork:
    network = StyleGANXLNetwork(config, seed=0).requires_grad_(False)
    adapt(network, affine_names(network) if adapters else (),
          lambda name: name.endswith("bias") and "affine" not in name and name.startswith("synthesis"))
    if not adapters:
        for name in affine_names(network):
            network.get_submodule(name).bias.requires_grad_(True)
    return network


class StyleGANXLSteps:
    variants = ("composition", "composition bf16", "plain", "plain bf16", "no adapters", "floor", "floor bf16")
    unmeasured = ("no adapters", "floor", "floor bf16")
    base, reference, notes = "composition", "plain", __doc__

    def __init__(self, preset: str) -> None:
        make, self.batch = PRESETS[preset]
        self._config = make()
        self.network = make_network(self._config)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            self.ws = self.network.mapping(torch.randn(self.batch, self._config.z_dim, generator=generator))
        self.network.synthesis.calibrate([self.ws])
        self.target = random_target(self.batch, self._config.img_resolution)

    def __getitem__(self, variant: str) -> Step:
        if variant.startswith("floor"):
            return floor(self._config, self.batch, torch.bfloat16 if "bf16" in variant else torch.float32)
        network = self.network
        if variant == "no adapters":
            network = make_network(self._config, adapters=False)
            network.load_state_dict({k: v for k, v in self.network.state_dict().items() if k.endswith("magnitude_ema")},
                                    strict=False)
        dtype = torch.bfloat16 if "bf16" in variant else None

        def draw() -> Tensor:
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                return network.synthesis(self.ws)
        step = training_step(draw, self.target, network)
        if not variant.startswith("composition"):
            return step

        def composed_step() -> object:
            with composed():
                return step()
        return composed_step


def filter_products(layer: LayerGeometry) -> int:
    """Multiplications of one channel's filters, forward: separable, polyphase, rows first."""
    (width, height), (out_width, out_height) = layer.in_size, layer.out_size
    width, height = (side + layer.conv_kernel - 1 for side in (width, height))
    left, right, top, bottom = layer.padding
    middle_x = width * layer.up_factor + left + right - layer.up_taps + 1
    middle_y = height * layer.up_factor + top + bottom - layer.up_taps + 1
    rise, fall = layer.up_taps / layer.up_factor, layer.down_taps
    up = (height * middle_x + middle_y * middle_x) * rise if layer.up_taps > 1 else 0
    down = (middle_y * out_width + out_height * out_width) * fall if layer.down_taps > 1 else 0
    return round(up + down)


def floor(config: StyleGANXLConfig, batch: int, dtype: torch.dtype) -> Step:
    calls, products = [], 0
    for layer in config.layers:
        x = torch.randn(batch, layer.in_channels, *reversed(layer.in_size)).to(dtype)
        weight = torch.randn(layer.out_channels, layer.in_channels, layer.conv_kernel, layer.conv_kernel).to(dtype)
        calls.append((F.conv2d, x, weight, {"padding": layer.conv_kernel - 1}))
        products += filter_products(layer) * layer.out_channels * batch
    side = 512
    rows = max(1, math.ceil(products / side**2))
    calls.append((torch.mm, torch.randn(rows, side).to(dtype), torch.randn(side, side).to(dtype), {}))
    return bare(calls)
