"""Protocols: named, versioned definitions of how a prediction is scored.

A protocol maps (prediction, target), both physical maps [N, C, H, W], to one value a sample and metric; results are
means over samples with bootstrap intervals. The first metric of a protocol is its primary one; skill is defined on
metrics for which lower is better:

    skill = 1 - error / error of the trivial predictor
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from generators._names import unknown


@dataclass(frozen=True)
class Metric:
    """What a number is called, its unit, and which direction is good ("lower" or "higher")."""

    label: str
    unit: str
    better: str


@dataclass(frozen=True)
class Protocol:
    """A named way to score. `score(prediction, target)` -> {metric name: float tensor [N]}."""

    name: str
    version: int
    metrics: dict[str, Metric]
    score: Callable[[Tensor, Tensor], dict[str, Tensor]]
    description: str

    @property
    def primary(self) -> str:
        return next(iter(self.metrics))

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


def angular_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Degrees between unit vector fields [N, 3, H, W] -> [N, H, W].

    atan2 of sine and cosine, since acos loses half its digits where vectors agree.
    """
    sine = torch.linalg.cross(prediction, target, dim=1).norm(dim=1)
    return torch.rad2deg(torch.atan2(sine, (prediction * target).sum(1)))


def _normal_per_image(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    angle = angular_error(prediction, target).flatten(1)
    within = {f"within_{t}": (angle < t).float().mean(1) for t in (11.25, 22.5, 30)}
    return dict(mean_angular_error=angle.mean(1), median_angular_error=angle.median(1).values,
                l1=(prediction - target).abs().mean((1, 2, 3)) * 100, **within)


def _depth_metric(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    difference = prediction - target
    ratio = torch.maximum(prediction / target, target / prediction)
    return dict(rms=difference.square().mean((1, 2, 3)).sqrt(), abs_rel=(difference.abs() / target).mean((1, 2, 3)),
                delta1=(ratio < 1.25).float().mean((1, 2, 3)))


def _depth_minmax(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    def between(x: Tensor) -> Tensor:
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        return (x - low) / (high - low).clamp_min(1e-6)

    difference = between(prediction) - between(target)
    return dict(rms=difference.square().mean((1, 2, 3)).sqrt(), l1=difference.abs().mean((1, 2, 3)))


def _image_rms(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    difference = prediction - target
    return dict(rms=difference.square().mean((1, 2, 3)).sqrt(), l1=difference.abs().mean((1, 2, 3)))


_PROTOCOLS = {p.name: p for p in (
    Protocol("normal-per-image", 1, {
        "mean_angular_error": Metric("mean angular error", "°", "lower"),
        "median_angular_error": Metric("median angular error", "°", "lower"),
        "l1": Metric("L1 × 100, vectors in [-1, 1]", "", "lower"),
        "within_11.25": Metric("pixels within 11.25°", "", "higher"),
        "within_22.5": Metric("pixels within 22.5°", "", "higher"),
        "within_30": Metric("pixels within 30°", "", "higher"),
    }, _normal_per_image, "angle between unit vectors, averaged over the pixels of an image, then over images"),
    Protocol("depth-metric", 1, {
        "rms": Metric("RMS", "m", "lower"),
        "abs_rel": Metric("absolute relative error", "", "lower"),
        "delta1": Metric("δ < 1.25", "", "higher"),
    }, _depth_metric, "no alignment: depths are compared in the teacher's own unit, per image, then averaged"),
    Protocol("depth-minmax", 1, {
        "rms": Metric("RMS", "", "lower"),
        "l1": Metric("L1", "", "lower"),
    }, _depth_minmax, "prediction and target each brought to [0, 1] between an image's ends: for relative depth"),
    Protocol("image-rms", 1, {
        "rms": Metric("RMS", "", "lower"),
        "l1": Metric("L1", "", "lower"),
    }, _image_rms, "sRGB-encoded values in [0, 1], root mean square per image, then averaged"),
)}


def get_protocol(name: str) -> Protocol:
    """By name. Raises UnknownNameError with the nearest names."""
    if name not in _PROTOCOLS:
        raise unknown("protocol", name, _PROTOCOLS)
    return _PROTOCOLS[name]


def protocols() -> dict[str, Protocol]:
    """Every protocol by name."""
    return dict(_PROTOCOLS)


def bootstrap_mean(values: np.ndarray, resamples: int = 2000, seed: int = 0) -> list[float]:
    """95 % percentile interval of the mean of per-sample `values` [N]."""
    return _percentiles(_resampled_means(values[:, None], resamples, seed)[:, 0])


def bootstrap_skill(errors: np.ndarray, trivial: np.ndarray, resamples: int = 2000, seed: int = 0) -> list[float]:
    """95 % interval of 1 - mean(errors) / mean(trivial), samples resampled in pairs."""
    means = _resampled_means(np.stack([errors, trivial], 1), resamples, seed)
    return _percentiles(1 - means[:, 0] / np.maximum(means[:, 1], 1e-12))


def _resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """values [N, K] -> means of bootstrap resamples [resamples, K]."""
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=resamples)
    return weights @ values / len(values)


def _percentiles(means: np.ndarray) -> list[float]:
    return [float(x) for x in np.percentile(means, [2.5, 97.5])]


def summarise(protocol: Protocol, scores: dict[str, np.ndarray], trivial: dict[str, np.ndarray],
              controls: dict[str, tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]) -> dict[str, dict]:
    """Per-sample scores -> the `metrics` part of metrics.json.

    Args:
        scores: of the probe, {metric: [N]}
        trivial: of the trivial predictor on the same samples
        controls: {control: (its scores, the scores of its own trivial predictor)}
    """
    summary = {}
    for name, metric in protocol.metrics.items():
        entry = dict(label=metric.label, unit=metric.unit, better=metric.better, **_with_interval(scores[name]),
                     trivial=_with_interval(trivial[name]), **_skill(metric, scores[name], trivial[name]))
        entry["controls"] = {
            control: dict(_with_interval(own[name]), trivial=float(base[name].mean()),
                          **_skill(metric, own[name], base[name]))
            for control, (own, base) in controls.items()}
        summary[name] = entry
    return summary


def _with_interval(values: np.ndarray) -> dict:
    return dict(value=float(values.mean()), ci95=bootstrap_mean(values), n=len(values))


def _skill(metric: Metric, errors: np.ndarray, trivial: np.ndarray) -> dict:
    if metric.better != "lower" or trivial.mean() <= 0:
        return dict(skill=None, skill_ci95=None)
    return dict(skill=float(1 - errors.mean() / trivial.mean()), skill_ci95=bootstrap_skill(errors, trivial))
