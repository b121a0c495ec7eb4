"""Protocols for surface normals: the angle between unit vectors, a pixel at a time.

    θ = atan2(|p × t|, p · t)    in degrees

Papers differ in what they then average. `normal-per-image` takes means over an image's pixels, then over images, so every
image counts alike; `normal-pooled` takes them over all valid pixels of the whole set at once, as Bae et al. (ICCV 2021,
arXiv 2109.09881) and DSINE (arXiv 2403.00712) do, so an image with few valid pixels counts little. L1 × 100 is given in both
ranges in use: on vectors in [-1, 1], and on the same stored as RGB in [0, 1], half of it.
"""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ._base import Metric, Protocol, chosen, register_protocol

WITHIN = (5, 7.5, 11.25, 22.5, 30)      # degrees
BINS = 18_000                           # of the histogram a pooled median is taken from: 0.01° each
_PER_DEGREE = BINS // 180


def angular_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Degrees between vector fields [N, 3, H, W] -> [N, H, W].

    atan2 of sine and cosine, since acos loses half its digits where vectors agree.
    """
    return _angles(prediction.transpose(0, 1), target.transpose(0, 1))


def _angles(p: Tensor, t: Tensor) -> Tensor:
    """[3, ...] -> [...], by components: several times faster than torch.linalg.cross along a first dimension."""
    x, y, z = p[1] * t[2] - p[2] * t[1], p[2] * t[0] - p[0] * t[2], p[0] * t[1] - p[1] * t[0]
    sine, cosine = (x * x + y * y + z * z).sqrt_(), p[0] * t[0] + p[1] * t[1] + p[2] * t[2]
    angle = torch.rad2deg(torch.atan2(sine, cosine))
    return angle.masked_fill_((sine == 0) & (cosine == 0), 90.0)         # a vector without a direction agrees with none


def _measure(prediction: Tensor, target: Tensor, valid: Tensor, angles: Tensor | None = None) -> dict[str, Tensor]:
    p, t = chosen(prediction, valid), chosen(target, valid)
    angle = _angles(p, t) if angles is None else angles
    l1 = (p - t).abs().mean() * 100
    return dict(mean_angular_error=angle.mean(), median_angular_error=angle.median(), l1=l1, l1_rgb=l1 / 2,
                rms_angular_error=angle.square().mean().sqrt(),
                **{f"within_{degrees}": (angle < degrees).sum() / angle.numel() for degrees in WITHIN})


def _measure_pooled(prediction: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
    angle = _angles(chosen(prediction, valid), chosen(target, valid))
    bins = (angle * _PER_DEGREE).long().clamp_(0, BINS - 1)
    return {**_measure(prediction, target, valid, angle), "histogram": torch.bincount(bins, minlength=BINS).int()}


_METRICS = {
    "mean_angular_error": Metric("mean angular error", "°", "lower"),
    "median_angular_error": Metric("median angular error", "°", "lower", pool="median"),
    "l1": Metric("L1 × 100, vectors in [-1, 1]", "", "lower"),
    "within_11.25": Metric("pixels within 11.25°", "", "higher"),
    "within_22.5": Metric("pixels within 22.5°", "", "higher"),
    "within_30": Metric("pixels within 30°", "", "higher"),
    "rms_angular_error": Metric("RMS angular error", "°", "lower", pool="rms"),
    "within_5": Metric("pixels within 5°", "", "higher"),
    "within_7.5": Metric("pixels within 7.5°", "", "higher"),
    "l1_rgb": Metric("L1 × 100, RGB in [0, 1]", "", "lower"),
}

_FORMULA = ("θ = atan2(|p × t|, p · t) in degrees over valid pixels; mean, median and √mean θ²; within_a = share of pixels "
            "with θ < a; l1 = 100 · mean |p - t| over pixels and components; l1_rgb = l1 / 2")

PER_IMAGE = register_protocol(Protocol(
    "normal-per-image", 1, _METRICS, _measure,
    "angle between unit vectors, averaged over the pixels of an image, then over images", intrinsics=("normal",),
    formula=_FORMULA + "; each per image, then the mean over images",
    source="the metrics of Fouhey et al., ICCV 2013, and of arXiv 2311.17137, which does not say how it aggregates"))

POOLED = register_protocol(replace(
    PER_IMAGE, name="normal-pooled", measure=_measure_pooled, aggregate="pixels", extras={"histogram": BINS},
    description="angle between unit vectors over all valid pixels of the whole set at once, so large masks count less",
    formula=_FORMULA + "; over all valid pixels of all images, the median from a histogram of 0.01°",
    source="Bae et al., ICCV 2021 (arXiv 2109.09881) and DSINE (arXiv 2403.00712), which pool the pixels of a test set"))
