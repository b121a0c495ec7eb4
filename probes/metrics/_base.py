"""What a protocol is: a named, versioned definition of how a prediction is scored against a target.

A protocol maps (prediction, target), both physical maps float [N, C, H, W] (see `probes._intrinsics`), to one value a
sample and metric. NaN in any channel of the target means that there is no truth at that pixel, and the pixel is left out;
NaN in the prediction where there is truth is an error, unless holes are allowed. What becomes of the values of many
samples, their mean or a figure pooled over all their pixels, is `probes.metrics.aggregate`'s part.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from generators._names import unknown

MEANINGS = ("metric", "relative", "disparity")
Measure = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]
Region = Callable[[Tensor], Tensor]


class EmptyMaskError(ValueError):
    """A target, or a whole set of them, in which no pixel has a value that the protocol looks at."""


@dataclass(frozen=True)
class Metric:
    """What a number is called, its unit, and which direction is good ("lower" or "higher").

    Args:
        pool: how pixels of several images make one figure, where they are pooled: "mean", "rms" (the square root of the
            mean of squares) or "median" (of the pixels, from histograms)
        over: "images" or "pixels", where a metric is aggregated otherwise than its protocol
    """

    label: str
    unit: str
    better: str
    pool: str = "mean"
    over: str = ""


@dataclass(frozen=True)
class Protocol:
    """A named way to score.

    Args:
        version: goes up when a number it gives changes
        metrics: {metric: what it is}; the first one is the primary one
        measure: (prediction [C, H, W], target [C, H, W], valid bool [H, W]) -> {metric: scalar}; `valid` has a pixel at least
        description: one line
        intrinsics: those it is for; empty: any
        aggregate: what a metric's figure is by default: "images", the mean over samples, or "pixels", pooled
        wants: for depth, what is compared: "depth" or "disparity"
        accepts: for depth, meanings of a prediction that `prepare_depth` can bring to that
        truth: for depth, meanings of a target it is defined for
        region: target [N, C, H, W] -> bool [N, H, W], pixels that count where they have truth: crops and caps
        formula: the definition, with the metrics' names
        source: the paper or code it follows
        extras: {name: length} of what `measure` returns beside the metrics, as integers, for pooling
    """

    name: str
    version: int
    metrics: dict[str, Metric]
    measure: Measure
    description: str
    intrinsics: tuple[str, ...] = ()
    aggregate: str = "images"
    wants: str = ""
    accepts: frozenset[str] = field(default_factory=frozenset)
    truth: frozenset[str] = field(default_factory=frozenset)
    region: Region | None = None
    formula: str = ""
    source: str = ""
    extras: dict[str, int] = field(default_factory=dict)

    @property
    def primary(self) -> str:
        return next(iter(self.metrics))

    def over(self, metric: str) -> str:
        """What a metric is aggregated over: "images" or "pixels"."""
        return self.metrics[metric].over or self.aggregate

    @property
    def pooled(self) -> bool:
        """Whether some metric is pooled over pixels, so that `score` also says how many pixels each sample has."""
        return any(self.over(m) == "pixels" for m in self.metrics)

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    def valid(self, target: Tensor) -> Tensor:
        """Pixels of a target [N, C, H, W] that count: bool [N, H, W]."""
        known = torch.isfinite(target).all(1)
        return known if self.region is None else known & self.region(target)

    @torch.no_grad()
    def score(self, prediction: Tensor, target: Tensor, *, allow_holes: bool = False, allow_empty: bool = False,
              names: Sequence[str] = ()) -> dict[str, Tensor]:
        """Scores samples one by one.

        Args:
            prediction, target: float [N, C, H, W], of one shape
            allow_holes: leave out pixels where the prediction has no value (NaN, infinity) and report `coverage`, the share
                of the target's valid pixels that it does cover; otherwise they are an error
            allow_empty: a sample without any valid pixel, scored alone, has NaN too instead of being an error
            names: of the samples, for messages; their numbers by default

        Returns float tensors {metric: [N]}, of the target's precision and at least single. A sample without any valid pixel
        has NaN. Where a metric is pooled there is also `pixels` [N], the number of valid pixels, and what pooling needs
        beyond that is two-dimensional (`histogram`, int [N, bins]): what has one dimension is a column of a table.

        Raises ValueError for shapes that differ and for holes that are not allowed; EmptyMaskError for one sample, scored
        alone, that has no valid pixel.
        """
        if prediction.shape != target.shape or target.ndim != 4:
            raise ValueError(f"prediction: expected a map [N, C, H, W] of the target's shape {list(target.shape)}, "
                             f"got {list(prediction.shape)}; bring both to one size (probes.data has resize_map)")
        dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
        prediction, target = prediction.to(dtype), target.to(dtype)
        valid = self.valid(target)
        covered = valid & torch.isfinite(prediction).all(1)
        if not allow_holes:
            _no_holes(valid, covered, names)
        if len(target) == 1 and not covered.any() and not allow_empty:
            raise EmptyMaskError(f"{_named(0, names)}: no pixel to score by {self}: {_why_empty(target, valid)}")
        rows = [self._row(*sample) for sample in zip(prediction, target, covered, strict=True)]
        table = {k: torch.stack([r[k] for r in rows]) if rows else torch.zeros(0) for k in self._blank(target)}
        table = {k: v.to(dtype) if k in self.metrics else v for k, v in table.items()}
        if allow_holes:
            table["coverage"] = (covered.flatten(1).sum(1) / valid.flatten(1).sum(1)).to(dtype)
        return table

    def _row(self, prediction: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
        row = self._blank(target)
        if valid.any():
            row.update(self.measure(prediction, target, valid))
            if self.pooled:
                row["pixels"] = valid.sum().to(torch.float64)
        return row

    def _blank(self, target: Tensor) -> dict[str, Tensor]:
        """A sample without pixels: no number, no weight, nothing in a histogram."""
        row = {m: target.new_full((), torch.nan) for m in self.metrics}
        if self.pooled:
            row["pixels"] = target.new_zeros((), dtype=torch.float64)
        return row | {k: target.new_zeros(length, dtype=torch.int32) for k, length in self.extras.items()}


def _named(index: int, names: Sequence[str]) -> str:
    return str(names[index]) if index < len(names) else f"sample {index}"


def _no_holes(valid: Tensor, covered: Tensor, names: Sequence[str]) -> None:
    holes = (valid & ~covered).flatten(1).sum(1)
    if holes.any():
        first = int(holes.nonzero()[0])
        others = f", and {int((holes > 0).sum()) - 1} other samples have holes" if (holes > 0).sum() > 1 else ""
        count = int(valid[first].sum())
        raise ValueError(f"prediction: {_named(first, names)}: {int(holes[first])} of the {count} pixels that have truth are "
                         f"NaN or infinite in the prediction{others}; expected a value at each; pass allow_holes=True to "
                         "leave them out and report the coverage")


def _why_empty(target: Tensor, valid: Tensor) -> str:
    if not torch.isfinite(target).all(1).any():
        return "the target holds no value anywhere"
    return "the target's values lie outside what counts" if not valid.any() else "the prediction holds no value there"


def chosen(values: Tensor, valid: Tensor) -> Tensor:
    """The valid pixels of a map [C, H, W]: [C, P]."""
    return values.flatten(1) if valid.all() else values[:, valid]


_PROTOCOLS: dict[str, Protocol] = {}


def register_protocol(protocol: Protocol) -> Protocol:
    """Makes a protocol known by its name. Raises ValueError if the name is taken by another."""
    if _PROTOCOLS.get(protocol.name, protocol) is not protocol:
        raise ValueError(f"protocol: {protocol.name!r} is already registered; choose another name")
    _PROTOCOLS[protocol.name] = protocol
    return protocol


def get_protocol(name: str) -> Protocol:
    """By name, or NAME/VERSION as tables have it. Raises UnknownNameError with the nearest names, ValueError for a version that
    this software does not have."""
    if not isinstance(name, str):
        raise ValueError(f"protocol: expected one name, got {name!r}; `probes list protocols` shows them")
    found = _PROTOCOLS.get(name.partition("/")[0])
    if found is None:
        raise unknown("protocol", name, _PROTOCOLS)
    if name not in (found.name, str(found)):
        raise ValueError(f"protocol: expected {found}, the version that this software has, got {name!r}")
    return found


def protocols() -> dict[str, Protocol]:
    """Every protocol by name."""
    return dict(_PROTOCOLS)
