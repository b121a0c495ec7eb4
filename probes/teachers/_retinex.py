"""Colour Retinex: albedo and shading of a photograph with no weights and no training.

Land's assumption in the form of Grosse et al. 2009 (ICCV, "Ground truth dataset and baseline evaluations for intrinsic
image algorithms", section 4): a gradient of the log image belongs to the albedo where the chromaticity changes, or the
brightness changes sharply, and to the shading elsewhere; the albedo's gradients are integrated by least squares. A
classical baseline, and weak: read what is fitted to it as "agrees with Retinex".
"""
from __future__ import annotations

import torch
from torch import Tensor

from .._quantiles import quantiles
from ..data.colour import linear_to_srgb, srgb_to_linear
from ._base import Teacher

CHROMATICITY_THRESHOLD = 0.075
BRIGHTNESS_THRESHOLD = 1.0
_FLOOR = 1 / 255


class RetinexTeacher(Teacher):
    """sRGB albedo [N, 3, H, W] and achromatic sRGB shading [N, 1, H, W], both in [0, 1]; the shading's brightest percent
    is white, which fixes the scale that the image leaves open."""

    name, version, licence = "retinex", "1", "Apache-2.0"
    intrinsics = ("albedo", "shading")
    worlds = ("photographs", "scenes")

    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        light = srgb_to_linear((image.float().clamp(-1, 1) + 1) / 2).clamp_min(_FLOOR)
        shading = _shading(light)
        if intrinsic == "shading":
            return linear_to_srgb(shading)
        return linear_to_srgb((light / shading).clamp(0, 1))


def _shading(light: Tensor) -> Tensor:
    """Linear RGB [N, 3, H, W] -> linear shading [N, 1, H, W] in (0, 1]."""
    brightness = light.mean(1, keepdim=True)
    log_brightness = brightness.log()
    chromaticity = (light / brightness).log()
    kept = []
    for axis in (2, 3):
        d_brightness, d_chroma = log_brightness.diff(dim=axis), chromaticity.diff(dim=axis)
        edge = (d_chroma.norm(dim=1, keepdim=True) > CHROMATICITY_THRESHOLD) | (d_brightness.abs() > BRIGHTNESS_THRESHOLD)
        kept.append(torch.where(edge, 0.0, d_brightness))       # what is no albedo edge is shading
    log_shading = integrate(*kept)
    return (log_shading - _white(log_shading)).clamp(-6, 0).exp()


def _white(log_shading: Tensor) -> Tensor:
    """[N, 1, 1, 1]: what a percent of an image's pixels exceed."""
    return quantiles(log_shading.detach().flatten(1), (0.99,))[0][:, None, None, None]


def integrate(d_rows: Tensor, d_columns: Tensor) -> Tensor:
    """The field of mean zero whose differences are nearest to those given, in the least-squares sense.

    Args:
        d_rows: [N, 1, H-1, W], differences between rows; d_columns: [N, 1, H, W-1], between columns

    Solves the Poisson equation with Neumann borders, which the cosine transform diagonalises.
    """
    n, _, height, width = d_columns.shape[0], 1, d_columns.shape[2], d_rows.shape[3]
    divergence = d_rows.new_zeros(n, 1, height, width)
    divergence[:, :, :-1] -= d_rows
    divergence[:, :, 1:] += d_rows
    divergence[..., :-1] -= d_columns
    divergence[..., 1:] += d_columns
    rows, columns = _cosine_basis(height).to(d_rows), _cosine_basis(width).to(d_rows)
    spectrum = rows @ divergence @ columns.T
    eigenvalues = _eigenvalues(height).to(d_rows)[:, None] + _eigenvalues(width).to(d_rows)[None]
    eigenvalues[0, 0] = 1
    spectrum = spectrum / eigenvalues
    spectrum[..., 0, 0] = 0
    return rows.T @ spectrum @ columns


def _cosine_basis(n: int) -> Tensor:
    """Orthonormal DCT-II matrix [n, n]."""
    k, i = torch.arange(n)[:, None], torch.arange(n)[None]
    basis = torch.cos(torch.pi * k * (2 * i + 1) / (2 * n)) * (2 / n) ** 0.5
    basis[0] /= 2**0.5
    return basis


def _eigenvalues(n: int) -> Tensor:
    """Of the second difference with Neumann ends, in the order of the cosine basis."""
    return 2 - 2 * torch.cos(torch.pi * torch.arange(n) / n)
