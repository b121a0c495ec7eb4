"""The synthesis network with frozen weights, for training a probe: the same images and gradients, in less time.

A probe's step runs through all of the synthesis network and back, but only the w -> s affines learn. So everything that
depends on the weights alone is computed once, no gradient of a weight ever is, and what is left between two
convolutions is as little as `_frozen_conv.py` can make it. `benchmarks/probe_step.py` measures the gain.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ._config import StyleGAN2Config
from ._frozen_conv import FrozenLayer, freeze_layer, styled_convolution
from ._layers import _DEMODULATION_EPS as EPS
from ._layers import GAINS, NOISE_MODES, SynthesisLayer, ToRGB, full_precision, upsample2d
from ._network import Synthesis, SynthesisBlock

# From this many values per sample and layer on, samples pass one by one: they stay in the cache, and their buffers
# stay small enough for the allocator to reuse. Measured on the FFHQ 256 px configuration.
_ONE_BY_ONE = 1 << 20


class FrozenSynthesis:
    """Draws what a `Synthesis` draws, with gradients for its affines, their adapters and ws only.

    The network is only read, its affines are looked up and called anew at every call: adapters may be injected,
    switched or removed at any time. Weights are watched: when one is replaced or changed in place, what was computed
    from it is computed again. (A change through `.data` leaves no trace; call `reset` after one.)

    Where it cannot help, the network's own `forward` is called instead: if `supports(config)` is false, or if a weight
    other than an affine's requires a gradient while gradients are recorded.

    Args:
        synthesis: The network.
        dtype: Precision of the convolutions; None for that of the weights. Styles, demodulation and the image that the
            blocks add to stay in the precision of the weights. torch.bfloat16 is fast where the CPU has AMX.
    """

    def __init__(self, synthesis: Synthesis, dtype: torch.dtype | None = None) -> None:
        self.synthesis, self.dtype = synthesis, dtype
        self.reset()

    def reset(self) -> None:
        """Forgets all that was computed from the weights."""
        self._layers: dict[str, tuple[tuple, FrozenLayer]] = {}

    def __call__(
        self, ws: Tensor, noise_mode: str = "const", generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws images; arguments and result are those of `Synthesis.forward`. Gradients are of first order only."""
        synthesis, config = self.synthesis, self.synthesis.config
        valid = noise_mode in NOISE_MODES and ws.ndim == 3 and ws.shape[1:] == (config.num_ws, config.w_dim)
        if not valid or not supports(config) or self._trains_weights():
            return synthesis(ws, noise_mode, generator)         # which also says what is wrong with the arguments
        ws = ws.to(synthesis.b4.const.dtype)
        with full_precision(ws):
            tasks = self._tasks(ws, noise_mode, generator)
            const = synthesis.b4.const.detach().to(self._dtype)
            x = const.expand(len(ws), -1, -1, -1)
            return _run(tasks, x, None)

    @property
    def _dtype(self) -> torch.dtype:
        return self.dtype or self.synthesis.b4.const.dtype

    def _trains_weights(self) -> bool:
        if not torch.is_grad_enabled():
            return False
        blocks = [getattr(self.synthesis, f"b{resolution}") for resolution in self.synthesis.config.resolutions]
        layers = [getattr(block, name, None) for block in blocks for name in ("conv0", "conv1", "torgb", "skip")]
        own = [p for module in (*blocks, *layers) if module is not None for p in module.parameters(recurse=False)]
        return any(p.requires_grad for p in own)

    def _frozen(self, name: str, layer: SynthesisLayer) -> FrozenLayer:
        sources = [layer.weight, layer.bias, *([layer.noise_strength, layer.noise_const] if layer.use_noise else [])]
        now = (self._dtype, *((id(p), p.data_ptr(), p.device, p.dtype, _version(p)) for p in sources))
        then, frozen = self._layers.get(name, (None, None))
        if now != then:
            with torch.inference_mode(False), torch.no_grad():
                frozen = freeze_layer(layer, self._dtype)
            self._layers[name] = (now, frozen)
        return frozen

    def _tasks(self, ws: Tensor, noise_mode: str, generator: torch.Generator | None) -> "list[_Block]":
        """All that happens per sample and channel, for the whole batch: affines, demodulation, noise."""
        config, tasks, carried = self.synthesis.config, [], None
        for resolution in config.resolutions:
            block: SynthesisBlock = getattr(self.synthesis, f"b{resolution}")
            i, layers = block.first_ws, []
            if block.skip is not None:
                carried = None
            for name in ("conv0", "conv1")[resolution == 4 :]:
                layer = getattr(block, name)
                styles = layer.affine(ws[:, i])
                frozen = self._frozen(f"b{resolution}.{name}", layer)
                inverse = torch.sqrt(styles.square() @ frozen.power + EPS)
                noise = frozen.noise if noise_mode == "const" else None
                if noise_mode == "random" and layer.use_noise:
                    noise = frozen.strength * layer._noise(ws, noise_mode, generator).flatten(2)
                limit = None if layer.conv_clamp is None else layer.conv_clamp / GAINS[layer.activation] * inverse
                scale = styles if carried is None else styles * carried
                layers.append(_Layer(frozen, scale, inverse, limit, noise))
                carried = GAINS[layer.activation] / inverse
                i += 1
            to_rgb = None
            if block.torgb is not None:
                styles = block.torgb.affine(ws[:, i])
                factor = styles if block.skip is not None else styles * carried
                to_rgb = block.torgb.weight.flatten(1) * factor[:, None]
            tasks.append(_Block(block, layers, carried, to_rgb))
        return tasks


def supports(config: StyleGAN2Config) -> bool:
    """Whether there is a fast way for this configuration: for all but resampling filters of odd length."""
    return len(config.resample_filter) % 2 == 0


@dataclass
class _Layer:
    """One call of `styled_convolution`, but for its input."""

    frozen: FrozenLayer
    scale: Tensor
    inverse: Tensor
    limit: Tensor | None
    noise: Tensor | None

    def split(self) -> "list[_Layer]":
        count = len(self.scale)
        parts = zip(*(_split(t, count) for t in (self.scale, self.inverse, self.limit, self.noise)), strict=True)
        return [_Layer(self.frozen, *part) for part in parts]


@dataclass
class _Block:
    """The layers of one resolution; `carried` [N, O] is what u of the last one lacks."""

    block: SynthesisBlock
    layers: list[_Layer]
    carried: Tensor
    to_rgb: Tensor | None

    def split(self) -> "list[_Block]":
        count = len(self.carried)
        layers = zip(*(layer.split() for layer in self.layers), strict=True)
        parts = zip(layers, _split(self.carried, count), _split(self.to_rgb, count), strict=True)
        return [_Block(self.block, list(part[0]), *part[1:]) for part in parts]

    def forward(self, x: Tensor, image: Tensor | None, last: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x: u of the block below, and `last`: what it lacks -> u and the image of this one."""
        block, rgb, residual = self.block, None, None
        merges = block.skip is not None
        if merges:
            x = x if last is None else x * last[:, :, None, None].to(x.dtype)
            residual = upsample2d(F.conv2d(x, block.skip.weight.detach().to(x.dtype)), block.kernel)
        for layer in self.layers:
            to_rgb = self.to_rgb if layer is self.layers[-1] and not merges else None
            x, rgb = styled_convolution(
                layer.frozen, x, layer.scale, layer.inverse, layer.limit, to_rgb, layer.noise)
        if merges:
            x = (x * self.carried[:, :, None, None].to(x.dtype) + residual) * math.sqrt(0.5)
            if self.to_rgb is not None:
                rgb = torch.bmm(self.to_rgb.to(x.dtype), x.flatten(2)).unflatten(2, x.shape[2:]).to(self.to_rgb.dtype)
        if image is not None:
            image = upsample2d(image, block.kernel)
        if rgb is not None:
            rgb = _finish(rgb, block.torgb)
            image = rgb if image is None else image + rgb
        return x, image


def _run(tasks: list[_Block], x: Tensor, image: Tensor | None, last: Tensor | None = None) -> Tensor:
    """The blocks in turn; from the first large one on, sample by sample."""
    for i, task in enumerate(tasks):
        if len(x) > 1 and task.carried.shape[1] * task.block.resolution**2 >= _ONE_BY_ONE:
            rest = zip(*(task.split() for task in tasks[i:]), strict=True)
            parts = (list(rest), _split(x, len(x)), _split(image, len(x)), _split(last, len(x)))
            return torch.cat([_run(list(t), *part) for t, *part in zip(*parts, strict=True)])
        x, image = task.forward(x, image, last)
        last = None if task.block.skip is not None else task.carried
    return image


def _finish(rgb: Tensor, torgb: ToRGB) -> Tensor:
    rgb = rgb + torgb.bias.detach()[:, None, None]
    return rgb if torgb.conv_clamp is None else rgb.clamp(-torgb.conv_clamp, torgb.conv_clamp)


def _split(x: Tensor | None, count: int) -> "list[Tensor | None] | tuple[Tensor, ...]":
    if x is None or x.shape[0] < count:
        return [x] * count
    return x.split(1)


def _version(p: Tensor) -> int:
    return 0 if p.is_inference() else p._version
