"""The steps of StyleGAN2.

    grouped       convolution weights modulated per sample, the batch as groups (StyleGAN2, appendix B)
    plain         `Synthesis.forward`: shared weights, scaled activations
    frozen        `FrozenSynthesis`, float32
    frozen bf16   `FrozenSynthesis(dtype=torch.bfloat16)`
    no adapters   frozen, where the affines' own biases learn instead: LoRA's overhead is the difference to this
    floor         the bare convolutions of the same shapes, forward and backward to their input, and nothing else
"""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from _steps import Step, adapt, bare, random_target, training_step
from torch import Tensor

from generators.stylegan2 import StyleGAN2Config, StyleGAN2Network, Synthesis, affine_names
from generators.stylegan2._frozen import FrozenSynthesis

PRESETS = {
    "ffhq256": (StyleGAN2Config(img_resolution=256), 4),
    "embedded": (
        StyleGAN2Config(
            img_resolution=64, z_dim=128, w_dim=128, mapping_layers=4, use_noise=False,
            channels={4: 128, 8: 128, 16: 128, 32: 64, 64: 32},
        ),
        8,
    ),
}


def grouped_synthesis(synthesis: Synthesis, ws: Tensor, noise_mode: str = "const") -> Tensor:
    """The paper's formulation (skip architecture): every sample's own weights, and one group a sample."""
    x = image = None
    for resolution in synthesis.config.resolutions:
        block = getattr(synthesis, f"b{resolution}")
        i = block.first_ws
        if x is None:
            x = block.const.expand(len(ws), -1, -1, -1)
        else:
            x = _grouped_layer(block.conv0, x, ws[:, i], noise_mode)
            i += 1
        x = _grouped_layer(block.conv1, x, ws[:, i], noise_mode)
        torgb = block.torgb
        weight = torgb.weight * torgb.affine(ws[:, i + 1])[:, None, :, None, None]
        rgb = _per_sample(F.conv2d, x, weight) + torgb.bias[:, None, None]
        if image is not None:
            channels, taps = image.shape[1], block.kernel.shape[0]
            kernel = block.kernel.expand(channels, 1, taps, taps)
            rgb = rgb + F.conv_transpose2d(image, kernel, stride=2, padding=1, groups=channels)
        image = rgb
    return image


def _grouped_layer(layer: torch.nn.Module, x: Tensor, w: Tensor, noise_mode: str) -> Tensor:
    weight = layer.weight * layer.affine(w)[:, None, :, None, None]                          # modulation, eq. 1
    weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()          # demodulation, eq. 3
    if layer.up:
        x = _per_sample(F.conv_transpose2d, x, weight.transpose(1, 2), stride=2)
        channels, taps = x.shape[1], layer.kernel.shape[0]
        x = F.conv2d(x, layer.kernel.flip(0, 1).expand(channels, 1, taps, taps), padding=1, groups=channels)
    else:
        x = _per_sample(F.conv2d, x, weight, padding=1)
    if layer.use_noise and noise_mode == "const":
        x = x + layer.noise_const * layer.noise_strength
    return F.leaky_relu(x + layer.bias[:, None, None], 0.2) * layer.gain


def _per_sample(convolve: Callable[..., Tensor], x: Tensor, weight: Tensor, **options: int) -> Tensor:
    n, _, height, width = x.shape
    y = convolve(x.reshape(1, -1, height, width), weight.flatten(0, 1), groups=n, **options)
    return y.view(n, -1, *y.shape[2:])


def make_network(config: StyleGAN2Config, adapters: bool = True) -> StyleGAN2Network:
    """A network with noise, biases and, if asked for, LoRA that has already learnt something."""
    network = StyleGAN2Network(config, seed=0).requires_grad_(False)
    adapt(network, affine_names(network) if adapters else (),
          lambda name: name.endswith("noise_strength") or (name.endswith("bias") and "affine" not in name))
    if not adapters:
        for name in affine_names(network):
            network.get_submodule(name).bias.requires_grad_(True)
    return network


class StyleGAN2Steps:
    variants = ("grouped", "plain", "frozen", "frozen bf16", "no adapters", "floor")
    unmeasured = ("no adapters", "floor")
    base, reference, notes = "grouped", "plain", __doc__

    def __init__(self, preset: str) -> None:
        self._config, self.batch = PRESETS[preset]
        self.network = make_network(self._config)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            self.ws = self.network.mapping(torch.randn(self.batch, self._config.z_dim, generator=generator))
        self.target = random_target(self.batch, self._config.img_resolution)

    def __getitem__(self, variant: str) -> Step:
        synthesis, network = self.network.synthesis, self.network
        if variant == "floor":
            return bare_convolutions(self._config, self.batch)
        if variant == "no adapters":
            network = make_network(self._config, adapters=False)
        draw: dict[str, Callable[[Tensor], Tensor]] = {
            "grouped": lambda ws: grouped_synthesis(synthesis, ws),
            "plain": synthesis,
            "frozen": FrozenSynthesis(synthesis),
            "frozen bf16": FrozenSynthesis(synthesis, torch.bfloat16),
            "no adapters": FrozenSynthesis(network.synthesis),
        }
        return training_step(lambda: draw[variant](self.ws), self.target, network)


def bare_convolutions(config: StyleGAN2Config, batch: int) -> Step:
    """The floor: one convolution after the other, channels last."""
    calls = []

    def add(convolve: Callable[..., Tensor], side: int, inputs: int, weight: Tensor, **options: int) -> None:
        calls.append((convolve, torch.randn(batch, inputs, side, side), weight, options))

    for r in config.resolutions:
        channels = config.channels_at(r)
        if r > 4:
            below = config.channels_at(r // 2)
            add(F.conv_transpose2d, r // 2, below, torch.randn(below, channels, 3, 3), stride=2)
        add(F.conv2d, r, channels, torch.randn(channels, channels, 3, 3), padding=1)
        if config.has_torgb(r):
            add(F.conv2d, r, channels, torch.randn(3, channels, 1, 1))
    return bare(calls)
