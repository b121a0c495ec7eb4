"""From per-sample scores to figures with 95 % intervals, for means over images and for figures pooled over pixels alike.

A metric's figure over samples i with values v_i is

    images   Σ v_i / N
    pixels   Σ n_i v_i / Σ n_i,  √(Σ n_i v_i² / Σ n_i) for root mean squares,  the median of the summed histograms

with n_i a sample's number of valid pixels. Intervals are percentile bootstrap over IMAGES (2000 resamples), pooled figures
too: pixels of one image are not independent. Skill = 1 - error / error of the trivial predictor, resampled in pairs.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

import numpy as np

from ._base import EmptyMaskError, Protocol

RESAMPLES = 2000
Scores = Mapping[str, np.ndarray]
Pool = Callable[[np.ndarray], np.ndarray]            # sample counts [R, N] -> figures [R]
Combine = Callable[[list[np.ndarray]], np.ndarray]   # figures of several tables -> one
_AT_ONCE = 250          # resamples: bounds the memory of the weights
_KEPT = 4_000_000      # draws: 32 MB
_COARSE = 10            # bins of a histogram taken together for the intervals: 0.1°, interpolated inside


def aggregate(protocol: Protocol, scores: Scores, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, dict]:
    """Per-sample scores -> {metric: {"value", "ci95": [low, high], or None for one sample, "n"}}.

    Args:
        scores: what `protocol.score` returned for all samples, as arrays; samples without a valid pixel (NaN) have no part
            in it, and `n` counts the others

    Raises EmptyMaskError where no sample has a value; ValueError for columns that are missing.
    """
    return {m: _figure(protocol, m, [scores], _first, resamples, seed) for m in protocol.metrics}


def aggregate_skill(protocol: Protocol, scores: Scores, trivial: Scores, resamples: int = RESAMPLES,
                    seed: int = 0) -> dict[str, dict]:
    """{metric: {"skill", "skill_ci95"}} of scores against the trivial predictor's on the same samples.

    None where lower is not better, or the trivial predictor makes no error.
    """
    return {m: _skill(protocol, m, scores, trivial, resamples, seed) for m in protocol.metrics}


def summarise(protocol: Protocol, scores: Scores, trivial: Scores,
              controls: dict[str, tuple[Scores, Scores]]) -> dict[str, dict]:
    """Per-sample scores -> the `metrics` part of metrics.json.

    Args:
        scores: of the probe, {metric: [N]}
        trivial: of the trivial predictor on the same samples
        controls: {control: (its scores, the scores of its own trivial predictor)}
    """
    own, base, skill = aggregate(protocol, scores), aggregate(protocol, trivial), aggregate_skill(protocol, scores, trivial)
    rivals = {control: (aggregate(protocol, a), aggregate(protocol, b), aggregate_skill(protocol, a, b))
              for control, (a, b) in controls.items()}
    return {m: dict(label=metric.label, unit=metric.unit, better=metric.better, **own[m], trivial=base[m], **skill[m],
                    controls={c: dict(a[m], trivial=b[m]["value"], **s[m]) for c, (a, b, s) in rivals.items()})
            for m, metric in protocol.metrics.items()}


def bootstrap_mean(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> list[float]:
    """95 % percentile interval of the mean of per-sample `values` [N]."""
    means = [weights @ values / len(values) for weights in _resampled(len(values), resamples, seed)]
    return _percentiles(np.concatenate(means))


def bootstrap_skill(errors: np.ndarray, trivial: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> list[float]:
    """95 % interval of 1 - mean(errors) / mean(trivial), samples resampled in pairs."""
    both = np.stack([errors, trivial], 1)
    means = np.concatenate([weights @ both for weights in _resampled(len(both), resamples, seed)])
    return _percentiles(1 - means[:, 0] / np.maximum(means[:, 1], 1e-12))


def _first(figures: list[np.ndarray]) -> np.ndarray:
    return figures[0]


def _ratio(figures: list[np.ndarray]) -> np.ndarray:
    return 1 - figures[0] / np.maximum(figures[1], 1e-12)


def _skill(protocol: Protocol, metric: str, scores: Scores, trivial: Scores, resamples: int, seed: int) -> dict:
    none = dict(skill=None, skill_ci95=None)
    if protocol.metrics[metric].better != "lower":
        return none
    known = np.isfinite(_column(scores, metric)) & np.isfinite(_column(trivial, metric))
    if not known.any() or not _pool(protocol, metric, _kept(trivial, known))(np.ones((1, int(known.sum())))) > 0:
        return none
    figure = _figure(protocol, metric, [scores, trivial], _ratio, resamples, seed)
    return dict(skill=figure["value"], skill_ci95=figure["ci95"])


def _figure(protocol: Protocol, metric: str, tables: list[Scores], combine: Combine, resamples: int, seed: int) -> dict:
    """A figure made of those of several tables over the samples that all of them have."""
    known = np.logical_and.reduce([np.isfinite(_column(t, metric)) for t in tables])
    count = int(known.sum())
    if not count:
        raise EmptyMaskError(f"{protocol}: none of the {len(known)} samples has a valid pixel to score; check the masks with "
                             "`probes data check`")
    pools = [_pool(protocol, metric, _kept(t, known)) for t in tables]
    value = combine([pool(np.ones((1, count))) for pool in pools])[0]
    if count == 1:                       # resampling one sample says that it is certain
        return dict(value=float(value), ci95=None, n=count)
    drawn = [combine([pool(weights) for pool in pools]) for weights in _resampled(count, resamples, seed)]
    return dict(value=float(value), ci95=_percentiles(np.concatenate(drawn)), n=count)


def _column(scores: Scores, name: str) -> np.ndarray:
    if name not in scores:
        raise ValueError(f"scores: no column {name!r}; expected what Protocol.score returns, got "
                         f"{', '.join(scores) or 'nothing'}")
    return np.asarray(scores[name])


def _kept(scores: Scores, known: np.ndarray) -> dict[str, np.ndarray]:
    return scores if known.all() else {k: np.asarray(v)[known] for k, v in scores.items()}


def _pool(protocol: Protocol, metric: str, scores: Scores) -> Pool:
    """How a metric of these samples, each drawn so many times, becomes a figure."""
    values = _column(scores, metric).astype(np.float64)
    if protocol.over(metric) == "images":
        return lambda counts: counts @ values / counts.sum(1)
    if protocol.metrics[metric].pool == "median":
        return _median(np.asarray(_column(scores, "histogram")))
    # Scores without the column come from maps of one size that are full: all weigh the same.
    pixels = np.asarray(scores["pixels"], dtype=np.float64) if "pixels" in scores else np.ones(len(values))
    if protocol.metrics[metric].pool == "rms":
        return lambda counts: np.sqrt(counts @ (pixels * values ** 2) / (counts @ pixels))
    return lambda counts: counts @ (pixels * values) / (counts @ pixels)


def _median(histograms: np.ndarray) -> Pool:
    """Medians of pooled histograms [N, bins] over 0-180°: of the set itself from all bins, of resamples from coarser ones."""
    coarse = histograms.reshape(len(histograms), -1, _COARSE).sum(2).astype(np.float64)

    def figures(counts: np.ndarray) -> np.ndarray:
        if (counts == 1).all():
            return np.array([_middle(histograms.sum(0, dtype=np.float64))])
        return np.array([_middle(row) for row in counts @ coarse])
    return figures


def _middle(histogram: np.ndarray) -> float:
    """The median in degrees, linear inside its bin."""
    below = np.cumsum(histogram)
    half = below[-1] / 2
    i = int(np.searchsorted(below, half))
    inside = (half - (below[i] - histogram[i])) / max(histogram[i], 1e-12)
    return (i + inside) * 180 / len(histogram)


def _resampled(count: int, resamples: int, seed: int) -> Iterable[np.ndarray]:
    """How often each of `count` samples is drawn in each bootstrap resample, float64 [R, count] at a time.

    Every metric of a table is resampled alike, so what is small enough to be kept is drawn once.
    """
    return _drawn_once(count, resamples, seed) if count * resamples <= _KEPT else _drawn(count, resamples, seed)


@lru_cache(maxsize=2)
def _drawn_once(count: int, resamples: int, seed: int) -> tuple[np.ndarray, ...]:
    return tuple(_drawn(count, resamples, seed))


def _drawn(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, _AT_ONCE):
        size = min(_AT_ONCE, resamples - start)
        yield rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)


def _percentiles(figures: np.ndarray) -> list[float]:
    return [float(x) for x in np.percentile(figures, [2.5, 97.5])]
