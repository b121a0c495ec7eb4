"""Correlation of a handful of generators, and how sure of it one can be.

Pearson's r = cov(x, y) / (σ_x σ_y); Spearman's ρ is Pearson's r of the ranks, ties at their mean rank (Spearman 1904, The
American Journal of Psychology 15). Intervals are percentile bootstrap ones (Efron 1979, The Annals of Statistics 7) over
generators, not over images or seeds: the question is what another set of generators would have given. Few generators leave
too few different resamples for such an interval to be trusted (four in perfect order give [−1, −1]), so that a permutation p
stands beside it: how often a random pairing is at least as strongly correlated (Fisher 1935, The Design of Experiments).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

RESAMPLES = 2000
PERMUTATIONS = 20_000
_EXACT = 7          # up to so many pairs every permutation is taken: 5040
FEWEST = 4          # generators that a correlation is worth an interval of


@dataclass(frozen=True)
class Correlation:
    """A coefficient in [-1, 1] with its 95 % interval; both NaN where it is not defined.

    Args:
        value: of all pairs
        low, high: percentile interval over resamples; NaN with fewer than four pairs
        n: pairs
        p: two-sided permutation p, exact up to seven pairs; NaN where the coefficient is
    """

    value: float
    low: float
    high: float
    n: int
    p: float = float("nan")

    def __str__(self) -> str:
        if np.isnan(self.value):
            return f"– (n = {self.n})"
        interval = "" if np.isnan(self.low) else f" [{self.low:+.2f}, {self.high:+.2f}]"
        p = "" if np.isnan(self.p) or self.n < FEWEST else ", p < 0.001" if self.p < 0.001 else f", p = {self.p:.2g}"
        return f"{self.value:+.2f}{interval} (n = {self.n}{p})".replace("-", "−")


def ranks(values: Sequence[float]) -> np.ndarray:
    """1 … n, ties at the mean of theirs; float [n], or along the last axis."""
    x = np.asarray(values, np.float64)
    # The number of smaller values, plus half of the equal ones: the mean rank of a tie.
    below, equal = (x[..., None] > x[..., None, :]).sum(-1), (x[..., None] == x[..., None, :]).sum(-1)
    return below + (equal + 1) / 2


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Along the last axis; NaN where either does not vary."""
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    spread = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    # Equal numbers leave a mean that is off by rounding, hence no exact zero.
    still = (np.abs(x).max(-1) < 1e-12) | (np.abs(y).max(-1) < 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(still, np.nan, (x * y).sum(-1) / spread).clip(-1, 1)


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _pearson(ranks(x), ranks(y))


def pearson(x: Sequence[float], y: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> Correlation:
    """Pearson's r of two sequences [n], one entry a generator; see `spearman`."""
    return _correlate(_pearson, x, y, resamples, seed)


def spearman(x: Sequence[float], y: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> Correlation:
    """Spearman's ρ of two sequences [n], one entry a generator.

    Args:
        x, y: finite numbers
        resamples: of the bootstrap; those in which x or y takes one value only are left out
        seed: of the resamples

    Raises ValueError for sequences of different lengths or with values that are not finite.
    """
    return _correlate(_spearman, x, y, resamples, seed)


def within(groups: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0) -> Correlation:
    """Kendall's τ over the pairs of generators within groups [(x, y)], and its permutation p over pairings within them: what
    groups differ in as a whole has no part in it (Kendall 1938, Biometrika 30). No interval: groups of two have none.

    Raises ValueError as `spearman`.
    """
    pairs = [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in groups]
    if any(x.shape != y.shape or x.ndim != 1 or not (np.isfinite(x).all() and np.isfinite(y).all()) for x, y in pairs):
        raise ValueError("groups: expected pairs of equally many finite numbers")
    signs = [np.sign(x[:, None] - x) for x, _ in pairs]
    nan, n = float("nan"), sum(len(x) for x, _ in pairs)
    most = sum(np.abs(sign).sum() for sign in signs)
    if not most:
        return Correlation(nan, nan, nan, n)

    def agreement(ys: list[np.ndarray]) -> np.ndarray:
        return sum((sign * np.sign(y[..., :, None] - y[..., None, :])).sum((-2, -1)) for sign, y in zip(signs, ys, strict=True))

    rng = np.random.default_rng(seed)
    value = float(agreement([y for _, y in pairs]))
    drawn = np.concatenate([agreement([rng.permuted(np.tile(y, (PERMUTATIONS // 10, 1)), axis=1) for _, y in pairs])
                            for _ in range(10)])
    as_far = int((np.abs(drawn) >= abs(value)).sum()) + 1           # the one observed is among them
    return Correlation(value / most, nan, nan, n, as_far / (len(drawn) + 1))


def _correlate(of: Callable, x: Sequence[float], y: Sequence[float], resamples: int, seed: int) -> Correlation:
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"y: expected as many values as x, {a.shape}, got {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("x, y: expected finite numbers; leave generators without a figure out")
    nan, n = float("nan"), len(a)
    if n < 2:
        return Correlation(nan, nan, nan, n)
    value = float(of(a, b))
    if n < FEWEST or np.isnan(value):
        return Correlation(value, nan, nan, n)
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    found = of(a[drawn], b[drawn])
    found = found[~np.isnan(found)]
    low, high = np.percentile(found, [2.5, 97.5]) if len(found) else (nan, nan)
    return Correlation(value, float(low), float(high), n, _permuted(of, a, b, value, seed))


def _permuted(of: Callable, x: np.ndarray, y: np.ndarray, value: float, seed: int) -> float:
    """The share of pairings whose coefficient is at least as far from zero."""
    n = len(y)
    if n <= _EXACT:
        orders, own = np.array(list(permutations(range(n)))), 0     # the one observed is among them
    else:
        orders, own = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (PERMUTATIONS, 1)), axis=1), 1
    found = np.concatenate([of(np.broadcast_to(x, (len(part), n)), y[part]) for part in np.array_split(orders, 10)])
    as_far = np.abs(found) >= abs(value) - 1e-9                     # equal ones differ by rounding
    return float((as_far.sum() + own) / (len(found) + own))
