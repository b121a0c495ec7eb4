"""Protocols for depth: how a prediction is aligned to the truth, and the errors that Eigen et al. made usual.

| protocol | alignment, per image, on valid pixels |
| --- | --- |
| depth-metric | none: metres against metres |
| depth-median | p · median(t) / median(p) (Zhou et al., CVPR 2017) |
| depth-affine | a·p + b, least squares in depth (Marigold, arXiv 2312.02145) |
| depth-affine-disparity | a·p + b to 1/t, least squares in disparity, then inverted (MiDaS, arXiv 1907.01341) |
| depth-minmax | both to [0, 1] between their own ends |

Each but the last has variants with a data set's crop and caps, `-nyu` and `-kitti`. The errors, for an aligned prediction p
and the truth t over valid pixels (Eigen et al., NeurIPS 2014, arXiv 1406.2283; SILog as on the KITTI benchmark):

    abs_rel = mean |p - t| / t        rms     = √mean (p - t)²          δk     = share with max(p/t, t/p) < 1.25ᵏ
    sq_rel  = mean (p - t)² / t       rms_log = √mean (ln p - ln t)²    silog  = 100 √(mean g² - (mean g)²), g = ln p - ln t
                                      log10   = mean |log10 p - log10 t|

`rms` is an image's, averaged over images; `rms_pooled` is the same over all pixels of the set, as Eigen et al. define it.
A true depth of zero or less is no truth. An aligned prediction is raised to 1 mm where it lies below: logarithms and ratios
have no meaning there.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._quantiles import quantiles
from ._base import MEANINGS, Metric, Protocol, chosen, protocols, register_protocol

NEAREST = 1e-3      # metres: the least depth that a prediction can have, and the lower cap on NYU and KITTI
Align = Callable[[Tensor, Tensor, "Scope"], Tensor]


@dataclass(frozen=True)
class Scope:
    """What of an image counts: true depths strictly between `nearest` and `farthest` metres, and pixels inside a crop.

    `crop(height, width)` -> (top, bottom, left, right). Predictions are clipped to the same range, after alignment.
    """

    name: str = ""
    nearest: float = 0.0
    farthest: float = math.inf
    crop: Callable[[int, int], tuple[int, int, int, int]] | None = None
    about: str = ""
    source: str = ""

    def region(self, target: Tensor) -> Tensor:
        depth = target[:, 0]
        inside = (depth > self.nearest) & (depth < self.farthest)
        if self.crop is not None:
            top, bottom, left, right = self.crop(*depth.shape[1:])
            kept = torch.zeros_like(inside)
            kept[:, top:bottom, left:right] = True
            inside &= kept
        return inside

    def clip(self, prediction: Tensor) -> Tensor:
        return prediction.clamp(max(self.nearest, NEAREST), self.farthest)


def nyu_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """Rows 45-470 and columns 41-600 of a 480 × 640 map. Raises ValueError for another size: the crop is given in pixels."""
    if (height, width) != (480, 640):
        raise ValueError(f"protocol: the NYU crop is defined for maps of 480 × 640 pixels, got {height} × {width}; evaluate at "
                         "the images' own size, or by a protocol without -nyu")
    return 45, 471, 41, 601


def kitti_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """Garg et al.'s crop, which is given in shares of height and width."""
    return int(0.40810811 * height), int(0.99189189 * height), int(0.03594771 * width), int(0.96405229 * width)


EVERYTHING = Scope()
NYU = Scope("nyu", NEAREST, 10.0, nyu_crop, "NYUv2's Eigen crop (rows 45-470, columns 41-600), truth between 1 mm and 10 m",
            "crop and cap of Eigen et al. as BTS (arXiv 1907.10326) and its successors use them")
KITTI = Scope("kitti", NEAREST, 80.0, kitti_crop, "KITTI's Garg crop, truth between 1 mm and 80 m",
              "crop of Garg et al., ECCV 2016 (arXiv 1603.04992), cap of Eigen et al., as in Monodepth2 (arXiv 1806.01260)")


def least_squares(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) that minimise Σ (a·p + b - t)² for p, t [P], in double precision.

    a = 0 for a constant prediction, and below zero for one that falls where the truth rises: alignment forgives that too.
    """
    p, t = prediction.double(), target.double()
    centred = p - p.mean()
    spread = centred.square().sum()
    flat = spread <= 1e-18 * p.square().sum().clamp_min(1e-300)
    a = torch.where(flat, 0.0, (centred * t).sum() / torch.where(flat, 1.0, spread))
    return a, t.mean() - a * p.mean()


def _as_is(p: Tensor, t: Tensor, scope: Scope) -> Tensor:
    return p


def _by_median(p: Tensor, t: Tensor, scope: Scope) -> Tensor:
    """The scale that makes medians agree; a prediction whose median is not positive is left as it is and clipped."""
    median = _middle(p)
    return p * torch.where(median > 0, _middle(t) / median, 1.0)


def _middle(x: Tensor) -> Tensor:
    """The median; of an even number of values the mean of the middle two, where torch takes the lower."""
    return (x.median() - (-x).median()) / 2


def _affine(p: Tensor, t: Tensor, scope: Scope) -> Tensor:
    a, b = least_squares(p, t)
    return (a * p + b).to(t.dtype)


def _affine_disparity(p: Tensor, t: Tensor, scope: Scope) -> Tensor:
    """Aligned disparity, clipped below at that of the scope's farthest depth, or of the image's farthest true point where the
    scope has no end: a disparity of zero or less would be infinitely far."""
    a, b = least_squares(p, 1 / t.double())
    farthest = scope.farthest if scope.farthest < math.inf else t.max().double()
    return (1 / (a * p + b).clamp_min(1 / farthest)).to(t.dtype)


def _errors(p: Tensor, t: Tensor) -> dict[str, Tensor]:
    """p, t > 0 [P] -> every error of the module's table."""
    difference = p - t
    ratio = torch.maximum(p / t, t / p)
    g = p.double().log() - t.double().log()
    rms = difference.square().mean().sqrt()
    return dict(rms=rms, abs_rel=(difference.abs() / t).mean(), delta1=(ratio < 1.25).to(t.dtype).mean(),
                delta2=(ratio < 1.25 ** 2).to(t.dtype).mean(), delta3=(ratio < 1.25 ** 3).to(t.dtype).mean(),
                sq_rel=(difference.square() / t).mean(), rms_log=g.square().mean().sqrt(),
                log10=g.abs().mean() / math.log(10), silog=100 * g.var(correction=0).sqrt(), rms_pooled=rms)


def _measure(align: Align, scope: Scope):
    def measure(prediction: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
        p, t = chosen(prediction, valid)[0], chosen(target, valid)[0]
        return _errors(scope.clip(align(p, t, scope)), t)
    return measure


def _measure_minmax(prediction: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
    def between(x: Tensor) -> Tensor:
        return (x - x.min()) / (x.max() - x.min()).clamp_min(1e-6)

    difference = between(chosen(prediction, valid)) - between(chosen(target, valid))
    return dict(rms=difference.square().mean().sqrt(), l1=difference.abs().mean())


def _measure_relative(prediction: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
    p, t = chosen(prediction, valid), chosen(target, valid)
    a, b = least_squares(p, t)
    low, high = quantiles(t.double(), (0.02, 0.98))
    difference = (a * p + b - t) / (high - low).clamp_min(1e-9)
    return dict(rms=difference.square().mean().sqrt(), l1=difference.abs().mean())


_METRICS = {
    "rms": Metric("RMS", "m", "lower"),
    "abs_rel": Metric("absolute relative error", "", "lower"),
    "delta1": Metric("δ < 1.25", "", "higher"),
    "delta2": Metric("δ < 1.25²", "", "higher"),
    "delta3": Metric("δ < 1.25³", "", "higher"),
    "sq_rel": Metric("squared relative error", "m", "lower"),
    "rms_log": Metric("RMS of ln depth", "", "lower"),
    "log10": Metric("mean |log10 ratio|", "", "lower"),
    "silog": Metric("SILog × 100", "", "lower"),
    "rms_pooled": Metric("RMS over all pixels", "m", "lower", pool="rms", over="pixels"),
}
_ABS_REL_FIRST = {"abs_rel": _METRICS["abs_rel"], **_METRICS}      # what papers with an alignment lead with

_FORMULA = ("p clipped to 1 mm and more; abs_rel = mean |p - t| / t; sq_rel = mean (p - t)² / t; rms = √mean (p - t)² per "
            "image; rms_pooled over all pixels; rms_log = √mean (ln p - ln t)²; log10 = mean |log10 p - log10 t|; silog = 100 "
            "√(mean g² - (mean g)²), g = ln p - ln t; δk = share of pixels with max(p/t, t/p) < 1.25^k")
_EIGEN = "Eigen et al., NeurIPS 2014 (arXiv 1406.2283)"
_ALIGNMENTS = (
    ("depth-metric", _as_is, _METRICS, "depth", {"metric"}, "no alignment: depths are compared in the teacher's own unit",
     "p is the prediction", _EIGEN),
    ("depth-median", _by_median, _ABS_REL_FIRST, "depth", {"metric"},
     "prediction scaled so that medians agree: for depth up to scale",
     "p = prediction · median(t) / median(prediction)", f"Zhou et al., CVPR 2017 (arXiv 1704.07813); {_EIGEN}"),
    ("depth-affine", _affine, _ABS_REL_FIRST, "depth", {"metric", "relative"}, "least-squares scale and shift in depth",
     "p = a · prediction + b, (a, b) = argmin Σ (p - t)²", f"Marigold (arXiv 2312.02145); {_EIGEN}"),
    ("depth-affine-disparity", _affine_disparity, _ABS_REL_FIRST, "disparity", {"metric", "disparity"},
     "least-squares scale and shift in disparity, then inverted",
     "p = 1 / max(a · prediction + b, 1 / farthest), (a, b) = argmin Σ (a · prediction + b - 1/t)²; farthest: the upper cap, "
     "or the image's largest true depth where there is none",
     f"MiDaS (arXiv 1907.01341), which clips at the data set's cap; {_EIGEN}"),
)


def _register() -> None:
    for name, align, metrics, wants, accepts, about, how, source in _ALIGNMENTS:
        for scope in (EVERYTHING, NYU, KITTI):
            register_protocol(Protocol(
                f"{name}-{scope.name}".rstrip("-"), 1, metrics, _measure(align, scope),
                about + (f"; {scope.about}" if scope.name else ", per image, then averaged"), intrinsics=("depth",),
                wants=wants, accepts=frozenset(accepts), truth=frozenset({"metric"}), region=scope.region,
                formula=f"{how}; {_FORMULA}" + (f"; {scope.about}; p clipped to the same range" if scope.name else ""),
                source=source + (f"; {scope.source}" if scope.name else "")))
    either = dict(intrinsics=("depth",), wants="depth", accepts=frozenset(MEANINGS), truth=frozenset(MEANINGS))
    register_protocol(Protocol(
        "depth-relative", 1, {"rms": Metric("RMS, in shares of the range", "", "lower"),
                              "l1": Metric("L1, in shares of the range", "", "lower")}, _measure_relative,
        "least-squares scale and shift, then errors in shares of an image's range: where zero has no meaning", **either,
        formula="e = (a · prediction + b - t) / (q98(t) - q2(t)), (a, b) = argmin Σ (a · prediction + b - t)², over valid "
                "pixels; rms = √mean e², l1 = mean |e|; in disparity where the target is one",
        source="alignment of MiDaS (arXiv 1907.01341), range of Marigold (arXiv 2312.02145), put together here"))
    register_protocol(Protocol(
        "depth-minmax", 1, {"rms": Metric("RMS", "", "lower"), "l1": Metric("L1", "", "lower")}, _measure_minmax,
        "prediction and target each brought to [0, 1] between an image's ends: for relative depth", **either,
        formula="x' = (x - min x) / (max x - min x) of prediction and target, over valid pixels; rms = √mean (p' - t')², "
                "l1 = mean |p' - t'|; in disparity where the target is one",
        source="the depth encoding of the code released with arXiv 2311.17137"))


def depth_protocol(first: str, meaning: str, truth: str) -> Protocol:
    """The protocol that compares a prediction of one meaning with a target of another: `first` if it can, else the one that
    comes nearest. Raises ValueError, as `prepare_depth` does, where none can."""
    able = [p for name in (first, "depth-relative", "depth-affine-disparity")
            if truth in (p := protocols()[name]).truth and _fits(p, meaning, truth)]
    return able[0] if able else protocols()[first]


def check_protocol(protocol: Protocol, intrinsic: str, meaning: str, truth: str) -> None:
    """Raises ValueError where a protocol is of another intrinsic, or cannot compare such depths (of `meaning` and `truth`)."""
    if protocol.intrinsics and intrinsic not in protocol.intrinsics:
        fitting = [p.name for p in sorted(protocols().values(), key=lambda p: not p.intrinsics)
                   if intrinsic in p.intrinsics or not p.intrinsics]                            # its own before those for all
        raise ValueError(f"protocol: {protocol} is for {', '.join(protocol.intrinsics)}, not {intrinsic}; choose of "
                         f"{', '.join(fitting)}")
    if intrinsic == "depth":
        prepare_depth(torch.ones(1, 1, 1, 1), meaning, protocol, truth)


def prepare_depth(prediction: Tensor, meaning: str, protocol: Protocol, truth: str = "metric") -> Tensor:
    """A prediction as a protocol compares it: metric depth becomes disparity where that is wanted.

    Args:
        prediction: float [N, 1, H, W]
        meaning: of the prediction: "metric" (metres), "relative" (depth up to scale and shift), "disparity" (inverse depth up
            to scale and shift, larger is nearer)
        truth: meaning of the target

    Returns depth, or the inverse depth 1/p, NaN where p is not positive. Raises ValueError where the two cannot be compared by
    this protocol; the message names one that can.
    """
    for argument, given in (("meaning", meaning), ("truth", truth)):
        if given not in MEANINGS:
            raise ValueError(f"{argument}: expected one of {', '.join(MEANINGS)}, got {given!r}")
    wants = _wanted(protocol, truth)
    if "depth" not in protocol.intrinsics or truth not in protocol.truth or not _fits(protocol, meaning, truth):
        known = (p for p in protocols().values() if "depth" in p.intrinsics and truth in p.truth)
        fitting = [p.name for p in known if _fits(p, meaning, truth) and not p.name.endswith(("-nyu", "-kitti"))]
        hint = f"use {' or '.join(fitting)}" if fitting else (
            "nothing compares these: depth and disparity that are both known up to a shift only cannot be brought together")
        raise ValueError(f"protocol: {protocol} does not score a prediction that is {meaning} depth against a {truth} target "
                         f"(it compares {wants or 'no depth'}); {hint}")
    if wants == "disparity" and meaning == "metric":
        return torch.where(prediction > 0, 1 / prediction, torch.nan)
    return prediction


def _wanted(protocol: Protocol, truth: str) -> str:
    """Where a target may itself be a disparity, that decides."""
    return "disparity" if truth == "disparity" else protocol.wants


def _fits(protocol: Protocol, meaning: str, truth: str) -> bool:
    kind = {"relative": "depth", "disparity": "disparity"}.get(meaning)
    return meaning in protocol.accepts and kind in (None, _wanted(protocol, truth))


_register()
