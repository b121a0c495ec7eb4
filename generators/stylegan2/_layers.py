"""Resampling and modulated convolution: the arithmetic of StyleGAN2's synthesis network.

Equation numbers are those of StyleGAN2 (Karras et al. 2020, arXiv 1912.04958). A convolution whose weights are
scaled per sample equals a shared convolution between two per-channel scalings,

    sum_i (s_i w_oik) * x_i = sum_i w_oik * (s_i x_i)        (modulation, eq. 1)
    y_o / sqrt(sum_ik (s_i w_oik)^2)                         (demodulation, eq. 3)

so no weight is ever built per sample, and the batch shares one convolution.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops

NOISE_MODES = ("const", "random", "none")
GAINS = {"lrelu": math.sqrt(2), "relu": math.sqrt(2), "linear": 1.0}
_DEMODULATION_EPS = 1e-8
# Most in x out channels for which the filter folded into a 6x6 kernel trains faster than a second pass over the
# output. Measured on a CPU in bfloat16, forward and backward; in float32, and above, the second pass is faster.
_FOLD_LIMIT = 64 * 64


def activate(x: Tensor, activation: str) -> Tensor:
    """The nonlinearity without its gain, which the callers apply beforehand: lrelu(a x) = a lrelu(x) for a > 0."""
    if activation == "lrelu":
        return F.leaky_relu(x, 0.2)
    return F.relu(x) if activation == "relu" else x


def _has_native_ops(x: Tensor) -> bool:
    """Whether `generators.ops` would run compiled on x: then FIR filters, and bias with activation, are one kernel each."""
    return not torch.compiler.is_compiling() and ops.wanted_extension(x.device.type) is not None


def full_precision(x: Tensor) -> torch.autocast:
    """Context in which autocast is off: for the few small products whose rounding would reach every pixel."""
    return torch.autocast(x.device.type, enabled=False)


def filter_kernel(taps: Sequence[float]) -> Tensor:
    """The 2-D low-pass kernel [t, t] of separable `taps`, with gain 4 to make up for the zeros of upsampling by 2."""
    taps = torch.tensor(taps, dtype=torch.float64)
    taps = 2 * taps / taps.sum()
    return torch.outer(taps, taps).float()


def upsample2d(x: Tensor, kernel: Tensor) -> Tensor:
    """Doubles the resolution: zeros between the samples, then the filter.

    Args:
        x: [N, C, H, W].
        kernel: [t, t], from `filter_kernel`.

    Returns:
        [N, C, 2H, 2W].
    """
    channels, taps = x.shape[1], kernel.shape[0]
    if _has_native_ops(x):
        before = taps - 1 - (taps - 2) // 2
        return ops.upfirdn2d(x, kernel, up=2, padding=(before, taps - 1 - before) * 2)
    kernel = kernel.to(x.dtype).expand(channels, 1, taps, taps)
    y = F.conv_transpose2d(x, kernel, stride=2, padding=(taps - 2) // 2, groups=channels)
    return y if taps % 2 == 0 else y[:, :, :-1, :-1]


def conv_up2d(x: Tensor, weight: Tensor, kernel: Tensor) -> Tensor:
    """Upsampling by 2 followed by a 3x3 convolution, both as one transposed convolution and the filter.

    Convolution and filter commute, so the convolution runs on the input, a quarter of the output's size. With zero
    padding the two orders agree up to the border.

    Args:
        x: [N, I, H, W].
        weight: [O, I, 3, 3], a true convolution (not a correlation).
        kernel: [t, t], from `filter_kernel`.

    Returns:
        [N, O, 2H, 2W].
    """
    taps, (outputs, inputs) = kernel.shape[0], weight.shape[:2]
    left, right = taps // 2, (taps + 1) // 2                    # what the full result has beyond 2H on either side
    reduced = x.dtype == torch.bfloat16 or torch.is_autocast_enabled(x.device.type)
    if reduced and x.device.type == "cpu" and inputs * outputs <= _FOLD_LIMIT:
        folded = fold_filter(weight, kernel).transpose(0, 1)
        y = F.conv_transpose2d(x, folded, stride=2, padding=left)
        return y if left == right else y[:, :, : 2 * x.shape[2], : 2 * x.shape[3]]
    y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    if _has_native_ops(x):
        y = ops.upfirdn2d(y, kernel, padding=taps - 1 - left)
    else:
        kernel = kernel.flip(0, 1).to(y.dtype).expand(outputs, 1, taps, taps)
        y = F.conv2d(y, kernel, padding=taps - 1 - left, groups=outputs)
    return y if left == right else y[:, :, : 2 * x.shape[2], : 2 * x.shape[3]]


def fold_filter(weight: Tensor, kernel: Tensor) -> Tensor:
    """A convolution and the filter after it as one kernel: [O, I, 3, 3] and [t, t] give [O, I, t + 2, t + 2]."""
    outputs, inputs, size, _ = weight.shape
    taps = kernel.shape[0]
    basis = kernel.new_zeros(size, size, taps + size - 1, taps + size - 1)
    for i in range(size):
        for j in range(size):
            basis[i, j, i : i + taps, j : j + taps] = kernel
    folded = weight.flatten(2) @ basis.view(size * size, -1).to(weight.dtype)
    return folded.view(outputs, inputs, taps + size - 1, taps + size - 1)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, demodulation, noise, bias, nonlinearity (StyleGAN2, figure 2d).

    Every parameter is what it multiplies by: the run-time gains of equalised learning rates are folded in. The
    convolution needs none, since demodulation divides any common factor of the weights out again.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        up: bool,
        taps: Sequence[float],
        activation: str,
        conv_clamp: float | None,
        use_noise: bool,
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.use_noise = resolution, up, use_noise
        self.activation, self.gain, self.conv_clamp = activation, GAINS[activation], conv_clamp
        self.affine = nn.Linear(w_dim, in_channels)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        if use_noise:
            self.noise_strength = nn.Parameter(torch.zeros(()))
            self.register_buffer("noise_const", torch.zeros(resolution, resolution))
        if up:
            self.register_buffer("kernel", filter_kernel(taps), persistent=False)

    def forward(
        self, x: Tensor, w: Tensor, noise_mode: str = "const", generator: torch.Generator | None = None
    ) -> Tensor:
        """x: [N, I, H, W], w: [N, w_dim] -> [N, O, H', W'] in x's (or autocast's) dtype; H' = 2H where `up`."""
        weight = self.weight
        with full_precision(x):
            styles = self.affine(w)
            if x.dtype == torch.float16:
                # Demodulation cancels any scale of styles and weights, so both may be brought into fp16's range.
                styles = styles / styles.abs().amax(1, keepdim=True).clamp_min(_DEMODULATION_EPS)
                weight = weight / (weight.abs().amax((1, 2, 3), keepdim=True) * math.sqrt(weight[0].numel()))
            power = styles.square() @ weight.square().sum((2, 3)).t()
            demodulation = torch.rsqrt(power + _DEMODULATION_EPS)                   # eq. 3
        x = x * styles[:, :, None, None].to(x.dtype)
        weight = weight.to(x.dtype)
        x = conv_up2d(x, weight, self.kernel) if self.up else F.conv2d(x, weight, padding=1)
        noise = None
        if self.use_noise and noise_mode != "none":
            noise = self.noise_strength * self._noise(x, noise_mode, generator)
        if _has_native_ops(x):
            x = x * demodulation[:, :, None, None].to(x.dtype)
            x = x if noise is None else x + noise.to(x.dtype)
            return ops.bias_act(x, self.bias.to(x.dtype), act=self.activation, clamp=self.conv_clamp)
        # The activation's gain goes into what comes before it: a pass less.
        x = x * (self.gain * demodulation)[:, :, None, None].to(x.dtype) + (self.gain * self.bias)[:, None, None].to(x.dtype)
        x = x if noise is None else x + (self.gain * noise).to(x.dtype)
        x = activate(x, self.activation)
        return x if self.conv_clamp is None else x.clamp(-self.conv_clamp, self.conv_clamp)

    def _noise(self, x: Tensor, noise_mode: str, generator: torch.Generator | None) -> Tensor:
        if noise_mode == "const":
            return self.noise_const
        shape = (x.shape[0], 1, self.resolution, self.resolution)
        if generator is None:                                   # apart, since torch.compile takes no generator argument
            return torch.randn(shape, device=x.device)
        return torch.randn(shape, generator=generator, device=generator.device).to(x.device)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to the image, without demodulation or nonlinearity (StyleGAN2, figure 7).

    The affine's styles carry the gain 1/sqrt(in_channels) of the 1x1 weights.
    """

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = nn.Linear(w_dim, in_channels)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x: [N, I, H, W], w: [N, w_dim] -> [N, O, H, W] in w's dtype."""
        with full_precision(x):
            # [N, O, I] is small, and spares a pass over x: the only weights that are modulated themselves.
            weight = self.weight.flatten(1) * self.affine(w)[:, None, :]
        n, channels, height, width = x.shape
        y = torch.bmm(weight.to(x.dtype), x.reshape(n, channels, height * width)).view(n, -1, height, width)
        y = y.to(w.dtype) + self.bias[:, None, None]
        return y if self.conv_clamp is None else y.clamp(-self.conv_clamp, self.conv_clamp)
