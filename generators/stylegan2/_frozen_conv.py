"""One styled convolution with frozen weights: the node of the autograd graph that `_frozen.py` is made of.

A layer of StyleGAN2 is a' = g lrelu(d y + b + n), y = conv(s a), with styles s, demodulation d > 0, bias b and noise n.
Since lrelu(d y) = d lrelu(y), the layer can hand on

    u = lrelu(y + (b + n) / d)          with          a' = (g d) u,

and the factor g d joins the styles of whatever reads a'. So the two scalings around a convolution cost one, or none
where the weights are small enough to carry it. Weights, bias and noise get no gradients; the scalings do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_SLOPES = {"lrelu": 0.2, "relu": 0.0, "linear": 1.0}
# A product and its sum over the pixels go in pieces that stay in a core's cache; measured, float32 only.
_PIECE = 1 << 18


@dataclass(frozen=True)
class FrozenLayer:
    """What never changes of a layer, in the layout and precision in which it is used.

    Attributes:
        weight: [O, I, 3, 3], of the convolution; where `up`, [I, O, 3, 3], of the transposed one.
        adjoint: [I, O, 3, 3], of the convolution that takes the gradient back; where `up`, `weight` does so itself.
        taps: [O, 1, t, t], the filter after a transposed convolution; None without one.
        flipped: [O, 1, t, t], that of its adjoint.
        phases: The transposed convolution as four convolutions, [O, I, 1 or 2, 1 or 2], where they are faster: for the
            output's even rows and even columns, even and odd, odd and even, odd and odd; else None.
        bias: [O], in the precision of the styles.
        power: [I, O], the sum of the squared weights over the kernel, in the precision of the styles.
        noise: [1, 1, H W], the constant noise times its strength; None without noise.
        strength: Of the noise; None without noise.
        slope: Of the nonlinearity, below zero.
    """

    weight: Tensor
    adjoint: Tensor | None
    taps: Tensor | None
    flipped: Tensor | None
    phases: tuple[Tensor, ...] | None
    bias: Tensor
    power: Tensor
    noise: Tensor | None
    strength: Tensor | None
    slope: float

    @property
    def up(self) -> bool:
        return self.adjoint is None


def freeze_layer(layer: torch.nn.Module, dtype: torch.dtype) -> FrozenLayer:
    """Prepares a `SynthesisLayer` for convolutions in `dtype`."""
    weight = layer.weight.detach()
    taps = flipped = phases = adjoint = noise = strength = None
    if layer.up:
        kernel = layer.kernel.to(weight.dtype)
        if dtype == torch.bfloat16:
            # With matrix tiles these are two to four times as fast as one transposed convolution; in float32, no.
            even, odd, flat = slice(0, 3, 2), slice(1, 2), weight.flip(2, 3)
            phases = tuple(_lay_out(flat[:, :, i, j], dtype) for i in (even, odd) for j in (even, odd))
        # A convolution here is a correlation, so the filter itself, which convolves, comes flipped.
        flipped = kernel.expand(weight.shape[0], 1, *kernel.shape).to(dtype).contiguous()
        taps = flipped.flip(2, 3).contiguous()
        stored = _lay_out(weight.transpose(0, 1), dtype)
    else:
        stored = _lay_out(weight, dtype)
        adjoint = _lay_out(weight.flip(2, 3).transpose(0, 1), dtype)
    if layer.use_noise:
        strength = layer.noise_strength.detach().clone()
        noise = (strength * layer.noise_const).view(1, 1, -1)
    power = weight.square().sum((2, 3)).t().contiguous()
    return FrozenLayer(stored, adjoint, taps, flipped, phases, layer.bias.detach().clone(), power, noise, strength,
                       _SLOPES[layer.activation])


def styled_convolution(
    layer: FrozenLayer,
    x: Tensor,
    scale: Tensor,
    inverse: Tensor,
    limit: Tensor | None = None,
    to_rgb: Tensor | None = None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """u = clamp(lrelu(conv(scale x) + inverse (bias + noise)), limit) and the image it adds.

    Args:
        layer: The frozen weights.
        x: [N, I, h, w], channels last, in the convolution's precision.
        scale: [N, I]; inverse: [N, O], 1 / demodulation, positive.
        limit: [N, O], positive; None for no clamp.
        to_rgb: [N, C, O], modulated weights of a 1x1 convolution of u; None for no image.
        noise: [1 or N, 1, H W], times its strength; None for none.

    Returns:
        u [N, O, H, W] like x, and the image [N, C, H, W] in to_rgb's precision, or None.
    """
    return _StyledConvolution.apply(x, scale, inverse, limit, to_rgb, noise, layer)


class _StyledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, inverse, limit, to_rgb, noise, layer):
        ctx.set_materialize_grads(False)
        x = x.contiguous(memory_format=torch.channels_last)
        in_weights = scales_weights(x, layer)
        if in_weights:
            scale = _away_from_zero(scale)
        u = _convolve(_multiply(x, scale) if not in_weights else x, layer, scale if in_weights else None)
        u = u.contiguous(memory_format=torch.channels_last)
        pixels = _pixels(u)
        basis, shifts = _shift_basis(layer, inverse, noise, pixels)
        pixels.baddbmm_(basis.transpose(1, 2), shifts)
        if layer.slope != 1:
            F.leaky_relu_(u, layer.slope)
        if limit is not None:
            bound = limit.to(u.dtype)[:, None]
            torch.clamp(pixels, -bound, bound, out=pixels)
        image = None
        if to_rgb is not None:
            image = _draw(pixels, to_rgb).unflatten(2, u.shape[2:])
        ctx.layer, ctx.in_weights = layer, in_weights
        ctx.save_for_backward(x, u, scale, limit, to_rgb, basis)
        return u, image

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_u, grad_image):
        x, u, scale, limit, to_rgb, basis = ctx.saved_tensors
        layer, pixels = ctx.layer, _pixels(u)
        grad_to_rgb = grad_limit = None
        grad = None if grad_u is None else _pixels(grad_u.contiguous(memory_format=torch.channels_last))
        if grad_image is not None:
            grad_rgb = grad_image.flatten(2)
            grad_to_rgb = torch.bmm(grad_rgb.to(u.dtype), pixels).to(to_rgb.dtype)
            left, right = grad_rgb.to(u.dtype).transpose(1, 2), to_rgb.to(u.dtype)
            grad = torch.bmm(left, right) if grad is None else torch.baddbmm(grad, left, right)
        if grad is None:
            return (None,) * 7
        if limit is not None:
            clamped = pixels.abs() >= limit.to(u.dtype)[:, None]
            grad_limit = (grad * pixels.sign() * clamped).sum(1, dtype=limit.dtype)
            grad = grad * ~clamped
        # The incoming gradient may be somebody else's too: what is written in place is what was made here.
        target = torch.empty_like(grad) if grad_image is None and limit is None else grad
        if layer.slope != 1:
            torch.ops.aten.leaky_relu_backward.grad_input(grad, pixels, layer.slope, True, grad_input=target)
            grad = target
        sums = torch.bmm(basis.expand(len(grad), -1, -1), grad).to(layer.bias.dtype)
        grad_inverse = sums[:, 0] * layer.bias
        if sums.shape[1] == 2:
            grad_inverse = grad_inverse + sums[:, 1]

        grad = _unflatten(grad, u)
        grad_x = _convolve_back(grad, layer, scale if ctx.in_weights else None)
        grad_x = grad_x.contiguous(memory_format=torch.channels_last)
        grad_scale = _sum_products(_pixels(grad_x), _pixels(x)).to(scale.dtype)
        if ctx.in_weights:
            grad_scale = grad_scale / scale
        elif ctx.needs_input_grad[0]:
            grad_x = _multiply(grad_x, scale, out=grad_x)
        return grad_x if ctx.needs_input_grad[0] else None, grad_scale, grad_inverse, grad_limit, grad_to_rgb, None, None


def scales_weights(x: Tensor, layer: FrozenLayer) -> bool:
    """Whether the weights are scaled instead of x: for a single sample whose pixels outnumber the weights."""
    outputs = layer.bias.shape[0]
    return x.shape[0] == 1 and 9 * outputs <= x.shape[2] * x.shape[3]


def _convolve(x: Tensor, layer: FrozenLayer, scale: Tensor | None) -> Tensor:
    if not layer.up:
        return F.conv2d(x, layer.weight if scale is None else _times(layer.weight, scale.view(1, -1, 1, 1)), padding=1)
    if layer.phases is not None:
        y = _convolve_phases(x, layer.phases, scale)
    else:
        weight = layer.weight if scale is None else _times(layer.weight, scale.view(-1, 1, 1, 1))
        y = F.conv_transpose2d(x, weight, stride=2)
    return F.conv2d(y, layer.taps, padding=layer.taps.shape[2] // 2 - 1, groups=len(layer.taps))


def _convolve_phases(x: Tensor, phases: tuple[Tensor, ...], scale: Tensor | None) -> Tensor:
    """The transposed 3x3 convolution of stride 2: [N, I, h, w] -> [N, O, 2h + 1, 2w + 1]."""
    n, _, height, width = x.shape
    size = (n, phases[0].shape[0], 2 * height + 1, 2 * width + 1)
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for (i, j), weight in zip(((0, 0), (0, 1), (1, 0), (1, 1)), phases, strict=True):
        if scale is not None:
            weight = _times(weight, scale.view(1, -1, 1, 1))
        y[:, :, i::2, j::2] = F.conv2d(x, weight, padding=(1 - i, 1 - j))
    return y


def _convolve_back(grad: Tensor, layer: FrozenLayer, scale: Tensor | None) -> Tensor:
    weight = layer.weight if layer.up else layer.adjoint
    if scale is not None:
        weight = _times(weight, scale.view(-1, 1, 1, 1))
    if not layer.up:
        return F.conv2d(grad, weight, padding=1)
    grad = F.conv2d(grad, layer.flipped, padding=layer.taps.shape[2] // 2, groups=len(layer.taps))
    return F.conv2d(grad, weight, stride=2)


def _lay_out(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)


def _times(weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale.to(weight.dtype)


def _multiply(x: Tensor, scale: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.mul(x, scale.to(x.dtype)[:, :, None, None], out=out)


def _away_from_zero(scale: Tensor) -> Tensor:
    """scale without values so small that what was multiplied by it cannot be divided by it again."""
    smallest = 1e-7 * scale.abs().amax(1, keepdim=True).clamp_min(torch.finfo(scale.dtype).tiny * 1e8)
    return torch.where(scale.abs() < smallest, smallest, scale)


def _shift_basis(layer: FrozenLayer, inverse: Tensor, noise: Tensor | None, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """inverse (bias + noise) as a product of pixels' [N, k, H W] and channels' [N, k, O], k = 1 without noise."""
    ones = inverse.new_ones(1, 1, pixels.shape[1])
    shifts: Sequence[Tensor] = [layer.bias * inverse]
    basis = ones
    if noise is not None:
        basis = torch.cat([ones.expand_as(noise), noise.to(ones.dtype)], 1)
        shifts = [*shifts, inverse]
    return basis.to(pixels.dtype).expand(len(pixels), -1, -1), torch.stack(shifts, 1).to(pixels.dtype)


def _draw(pixels: Tensor, to_rgb: Tensor) -> Tensor:
    """pixels: [N, P, O], to_rgb: [N, C, O] -> [N, C, P] in to_rgb's precision."""
    if pixels.dtype == to_rgb.dtype:
        return torch.bmm(to_rgb, pixels.transpose(1, 2))
    # In bfloat16 this order is thirty times as fast.
    return torch.bmm(pixels, to_rgb.to(pixels.dtype).transpose(1, 2)).transpose(1, 2).to(
        to_rgb.dtype, memory_format=torch.contiguous_format)


def _pixels(x: Tensor) -> Tensor:
    """[N, C, H, W], channels last, as [N, H W, C]: the same memory."""
    return x.permute(0, 2, 3, 1).view(x.shape[0], -1, x.shape[1])


def _unflatten(pixels: Tensor, like: Tensor) -> Tensor:
    """[N, H W, C] as [N, C, H, W], channels last: the inverse of `_pixels`.

    Strides are spelt out because those of a batch of one may be anything, and what is then not recognised as channels
    last is copied by every convolution.
    """
    n, channels, height, width = like.shape
    return pixels.as_strided(like.shape, (channels * height * width, 1, channels * width, channels))


def _sum_products(a: Tensor, b: Tensor) -> Tensor:
    """[N, P, C] twice -> [N, C]: the sum of a b over the pixels."""
    n, count, channels = a.shape
    ones = a.new_ones(1, 1, count)
    if n > 1 or a.dtype == torch.bfloat16 or a.numel() <= _PIECE:
        return torch.bmm(ones.expand(n, -1, -1), a * b)[:, 0]
    rows = max(1, _PIECE // channels)
    buffer, total = a.new_empty(rows, channels), a.new_zeros(1, channels)
    for piece, other in zip(a[0].split(rows), b[0].split(rows), strict=True):
        product = torch.mul(piece, other, out=buffer[: len(piece)])
        total.addmm_(ones[0, :, : len(piece)], product)
    return total
