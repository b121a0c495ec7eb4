"""Protocols for albedo and shading: differences of display values, scale-invariant errors of linear light, and similarity.

    image-rms         rms = √mean (p - t)², l1 = mean |p - t|, on sRGB-encoded values in [0, 1]
    image-si          in linear light, one scale an image: si_mse = min over α of mean (α·p - t)², si_rms = √si_mse;
                      lmse = Σ over windows min over α Σ (α·p - t)² / Σ over windows Σ t²     (Grosse et al., ICCV 2009)
    image-similarity  SSIM (Wang et al., 2004) and PSNR = -10 log10 mean (p - t)², on sRGB-encoded values in [0, 1]

Albedo and shading are known up to a factor that the other one takes: `image-si` does not see it. All channels share α.
"""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.colour import srgb_to_linear
from ._base import Metric, Protocol, chosen, register_protocol

WINDOW, SIGMA = 11, 1.5         # of SSIM's Gaussian, in pixels
K1, K2 = 0.01, 0.03
LOCAL = 20                      # side of an LMSE window in pixels; windows overlap by half
PERFECT = 1e-10                 # a mean squared error below it counts as this one: PSNR ends at 100 dB
_INTRINSICS = ("albedo", "shading")


def _measure_rms(prediction: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
    difference = chosen(prediction, valid) - chosen(target, valid)
    return dict(rms=difference.square().mean().sqrt(), l1=difference.abs().mean())


def _least(pp: Tensor, pt: Tensor, tt: Tensor) -> Tensor:
    """min over α of Σ (α·p - t)², from Σp², Σpt, Σt²; α = 0 for a black prediction."""
    black = pp <= 1e-12
    return (tt - torch.where(black, 0.0, pt * pt / torch.where(black, 1.0, pp))).clamp_min(0)


def _measure_si(prediction: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
    p, t = (torch.where(valid, srgb_to_linear(x.double().clamp(0, 1)), 0.0) for x in (prediction, target))
    products = torch.stack([(p * p).sum(0), (p * t).sum(0), (t * t).sum(0)])
    mse = _least(*products.flatten(1).sum(1)) / (valid.sum() * len(t))
    side = min(LOCAL, *valid.shape)
    windows = F.avg_pool2d(products[None], side, max(side // 2, 1))[0] * side ** 2
    energy = windows[2].sum()
    lmse = torch.where(energy > 0, _least(*windows).sum() / energy, torch.nan)
    return dict(si_rms=mse.sqrt(), si_mse=mse, lmse=lmse)


def _blurred(x: Tensor) -> Tensor:
    """[K, H, W] -> [K, H-10, W-10]: Gaussian means over windows that lie inside."""
    return _along(_along(x, 1), 2)


def _along(x: Tensor, dim: int) -> Tensor:
    """As a sum of shifted copies: in double precision a convolution takes four times as long on a CPU."""
    weights = [math.exp(-(i - WINDOW // 2) ** 2 / (2 * SIGMA ** 2)) for i in range(WINDOW)]
    length, total = x.shape[dim] - WINDOW + 1, sum(weights)
    mean = x.narrow(dim, 0, length) * (weights[0] / total)
    for i in range(1, WINDOW):
        mean.add_(x.narrow(dim, i, length), alpha=weights[i] / total)
    return mean


def ssim_map(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of windows, [C, H, W] in [0, 1] -> [C, H-10, W-10].

    11-pixel Gaussian window of σ 1.5, K1 = 0.01, K2 = 0.03, population (co)variances, dynamic range 1 (Wang et al., IEEE
    Transactions on Image Processing 13(4), 2004). Raises ValueError below 11 × 11 pixels.
    """
    if min(target.shape[1:]) < WINDOW:
        raise ValueError(f"prediction: image-similarity needs maps of at least {WINDOW} × {WINDOW} pixels, got "
                         f"{target.shape[1]} × {target.shape[2]}; use image-rms")
    p, t = prediction.double(), target.double()
    channels = len(t)
    mp, mt, pp, tt, pt = _blurred(torch.cat([p, t, p * p, t * t, p * t])).split(channels)
    c1, c2 = K1 ** 2, K2 ** 2
    return ((2 * mp * mt + c1) * (2 * (pt - mp * mt) + c2)) / ((mp * mp + mt * mt + c1) * (pp - mp * mp + tt - mt * mt + c2))


def _measure_similarity(prediction: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
    similarity = ssim_map(torch.where(valid, prediction, 0.0), torch.where(valid, target, 0.0))
    whole = -F.max_pool2d(-valid[None].float(), WINDOW, 1)[0] > 0      # windows without an invalid pixel
    mse = (chosen(prediction, valid).double() - chosen(target, valid)).square().mean()
    return dict(ssim=similarity[:, whole].mean(), psnr=-10 * mse.clamp_min(PERFECT).log10())


register_protocol(Protocol(
    "image-rms", 1, {"rms": Metric("RMS", "", "lower"), "l1": Metric("L1", "", "lower")}, _measure_rms,
    "sRGB-encoded values in [0, 1], root mean square per image, then averaged",
    formula="rms = √mean (p - t)², l1 = mean |p - t| over valid pixels and channels, per image",
    source="RMS of albedo and shading, as in arXiv 2311.17137"))

register_protocol(Protocol(
    "image-si", 1, {
        "si_rms": Metric("scale-invariant RMS, linear light", "", "lower"),
        "si_mse": Metric("scale-invariant MSE, linear light", "", "lower"),
        "lmse": Metric("local MSE, windows of 20 pixels", "", "lower"),
    }, _measure_si, "linear light after one least-squares scale an image (LMSE: a window): for what is known up to a factor",
    intrinsics=_INTRINSICS,
    formula="si_mse = mean (α·p - t)², α = Σpt / Σp², over valid pixels and channels; si_rms = √si_mse; lmse = Σ_w min_α Σ "
            "(α·p - t)² / Σ_w Σ t² over 20-pixel windows at a stride of 10 (windows of the shorter side where that is less), "
            "invalid pixels left out",
    source="LMSE: Grosse et al., ICCV 2009, eq. 8, here with one scale for all channels; si-MSE: Chen and Koltun, ICCV 2013"))

register_protocol(Protocol(
    "image-similarity", 1, {
        "ssim": Metric("SSIM", "", "higher"),
        "psnr": Metric("PSNR", "dB", "higher"),
    }, _measure_similarity, "SSIM and PSNR of sRGB-encoded values in [0, 1], per image, then averaged", intrinsics=_INTRINSICS,
    formula="SSIM with an 11-pixel Gaussian window, σ 1.5, K1 0.01, K2 0.03, population covariances, averaged over channels "
            "and over windows that lie inside the image and hold no invalid pixel; PSNR = -10 log10 max(mean (p - t)², 1e-10)",
    source="Wang et al., IEEE TIP 13(4), 2004; on full maps equal to scikit-image's SSIM, and to torchmetrics' but for "
           "the windows across a mirrored border that torchmetrics averages too"))
