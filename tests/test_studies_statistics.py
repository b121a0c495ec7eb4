"""Correlations against scipy, their intervals against what is known of them, and several seeds as one point."""
import numpy as np
import pytest
import scipy.stats
from study_rows import row

from probes.studies import get_study, pearson, points, spearman
from probes.studies._points import values
from probes.studies._statistics import ranks, within


@pytest.mark.parametrize("seed", range(5))
def test_coefficients_are_scipys(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(4, 20))
    x = random.integers(0, 6, n).astype(float)              # with ties
    y = x + random.normal(size=n) * 2
    assert spearman(x, y).value == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    assert pearson(x, y).value == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-12)
    assert ranks(x) == pytest.approx(scipy.stats.rankdata(x))


def test_intervals_are_a_bootstrap_over_generators():
    random = np.random.default_rng(1)
    x = random.normal(size=40)
    y = -x + random.normal(size=40)
    found = pearson(x, y)
    rival = scipy.stats.bootstrap((x, y), lambda a, b: scipy.stats.pearsonr(a, b).statistic, paired=True, vectorized=False,
                                  method="percentile", n_resamples=2000, rng=np.random.default_rng(2)).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(rival), abs=0.03)
    assert found.low < found.value < found.high < 0 and found.n == 40
    assert pearson(x, y) == found and pearson(x, y, seed=1) != found            # seeded
    small, large = spearman(x[:6], y[:6]), spearman(x, y)
    assert small.high - small.low > large.high - large.low


@pytest.mark.parametrize("n", [4, 5, 6, 7, 9, 13])
def test_permutation_p_is_scipys(n):
    random = np.random.default_rng(n)
    x = random.normal(size=n)
    y = random.normal(size=n) - 0.7 * x
    rival = scipy.stats.permutation_test((x,), lambda a: scipy.stats.spearmanr(a, y).statistic, permutation_type="pairings",
                                         n_resamples=6000, rng=np.random.default_rng(0)).pvalue
    assert spearman(x, y).p == pytest.approx(rival, abs=1e-9 if n <= 7 else 0.02)
    assert spearman(range(6), range(6)[::-1]).p == pytest.approx(2 / 720) and np.isnan(spearman([1, 2, 3], [3, 2, 1]).p)
    assert 0 < spearman(range(13), range(13)).p < 1e-3 and "p < 0.001" in str(spearman(range(13), range(13)))


def test_what_is_not_defined_is_said_to_be():
    assert str(spearman([1.0], [2.0])) == "– (n = 1)" and np.isnan(spearman([], []).value)
    still = pearson([0.1] * 6, [1, 2, 3, 4, 5, 6])
    assert np.isnan(still.value) and str(still) == "– (n = 6)"
    three = spearman([1, 2, 3], [3, 2, 1])
    assert three.value == -1 and np.isnan(three.low) and str(three) == "−1.00 (n = 3)"
    four = spearman([1, 2, 3, 4], [4, 3, 2, 1])         # resamples that took one generator four times are left out
    assert (four.value, four.low, four.high) == (-1, -1, -1) and "[−1.00, −1.00] (n = 4, p = 0.083)" in str(four)
    with pytest.raises(ValueError, match="as many values as x"):
        pearson([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="finite"):
        spearman([1, float("nan")], [1, 2])


def test_seeds_become_one_point():
    study = get_study("rank")
    rows = [row(study, skill, margin, seed=i, rank=8, parameters=10 + i)
            for i, (skill, margin) in enumerate([(0.5, 0.1), (0.9, 0.02), (0.6, 0.0)])]
    rows.append({**row(study, 0.3, rank=2), "skill_low": None, "skill_high": None})
    two, eight = points(rows, "rank")
    assert (two.at, two.value, two.low, two.high, two.seeds) == ({"rank": 2}, 0.3, 0.3, 0.3, 1)
    assert (eight.value, eight.low, eight.high, eight.seeds) == (0.6, 0.4, 0.92, 3)
    assert eight.median("parameters") == 11 and eight.median("seconds") is None and str(eight) == "0.60 [0.40, 0.92]"
    assert values(rows, "rank") == [2, 8] and values(rows, "intrinsic", ("depth", "normal")) == ["normal"]


def test_within_groups_their_differences_have_no_part():
    random = np.random.default_rng(0)
    x, y = random.normal(size=6), random.normal(size=6)
    own = scipy.stats.kendalltau(x, y, method="exact")
    found = within([(x, y)])
    assert found.value == pytest.approx(own.statistic) and found.p == pytest.approx(own.pvalue, abs=0.02) and found.n == 6
    apart = [(np.arange(4), -np.arange(4.0)), (np.arange(4) + 10, 50 - np.arange(4.0)), ([3], [9])]
    assert pearson(*map(np.concatenate, zip(*apart, strict=True))).value > 0        # pooled, it rises
    found = within(apart)
    assert found.value == -1 and found.n == 9 and found.p == pytest.approx(2 / 24 ** 2, abs=0.002)
    assert str(found).startswith("−1.00 (n = 9, p = 0.00")
    assert np.isnan(within([([1], [2]), ([3], [3])]).value) and np.isnan(within([]).value)
    assert within([([1, 1], [2, 3]), ([1, 2], [1, 2])]).value == 1                  # ties of x are no pairs
    with pytest.raises(ValueError, match="equally many finite numbers"):
        within([([1, 2], [1])])
