import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lora_tta.evaluation.statistics import (
    PairedComparison,
    effect_seen,
    paired_comparison,
    signed_rank_test,
)

BASELINE = np.array([15.0, 16.0, 14.0, 15.0])
ADAPTED = np.array([15.5, 16.2, 13.9, 15.0])
# Darwin's plants, cross- and self-fertilised, in eighths of an inch; the example of scipy.stats.wilcoxon.
DARWIN = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75], dtype=float)


def compared(differences, direction="maximize", samples=1000) -> PairedComparison:
    differences = np.asarray(differences, dtype=float)
    return paired_comparison(np.zeros_like(differences), differences, direction, samples, seed=0)


def test_means_and_share_by_hand():
    result = paired_comparison(BASELINE, ADAPTED, "maximize", samples=1000, seed=0)
    assert result.clips == 4
    assert (result.baseline, result.adapted) == (15.0, pytest.approx(15.15))
    assert result.difference == pytest.approx(0.15)
    assert result.spread == pytest.approx(math.sqrt((0.35**2 + 0.05**2 + 0.25**2 + 0.15**2) / 3))
    assert (result.share_improved, result.share_unchanged) == (0.5, 0.25)  # the tie is no improvement


def test_improvement_follows_the_direction():
    result = paired_comparison(BASELINE, ADAPTED, "minimize", samples=1000, seed=0)
    assert result.share_improved == 0.25
    assert result.difference == pytest.approx(0.15)


def test_the_signed_rank_test_of_darwins_plants():
    result = compared(DARWIN)
    assert result.wilcoxon_p == 0.041259765625  # as in scipy's documentation
    # Of 15 ranks the negatives have 10 (48) and 14 (67): scipy's statistic, 24.
    assert result.rank_biserial == pytest.approx((120 - 2 * 24) / 120)


def test_zeros_and_ties_have_shared_ranks_or_none():
    _, rank_biserial = signed_rank_test(np.array([0.0, 0.0, -1.0, 1.0, 2.0, 3.0]))
    assert rank_biserial == pytest.approx((1.5 + 3 + 4 - 1.5) / 10)


def test_the_share_has_wilsons_interval():
    result = compared([1.0] * 15 + [-1.0] * 10)
    # By hand: p = 0.6, n = 25, z = 1.959964.
    z2 = 1.959964**2
    centre, half = 0.6 + z2 / 50, 1.959964 * math.sqrt(0.6 * 0.4 / 25 + z2 / 2500)
    assert result.share_low == pytest.approx((centre - half) / (1 + z2 / 25))
    assert result.share_high == pytest.approx((centre + half) / (1 + z2 / 25))


def test_the_interval_is_the_bias_corrected_one_of_resampled_clips():
    interval = stats.bootstrap(
        (DARWIN,), np.mean, n_resamples=100_000, method="BCa", rng=np.random.default_rng(3)
    ).confidence_interval
    result = compared(DARWIN, samples=20_000)
    assert result.interval_low == pytest.approx(interval.low, abs=0.7)
    assert result.interval_high == pytest.approx(interval.high, abs=0.7)
    percentile = np.percentile(
        DARWIN[np.random.default_rng(4).integers(0, 15, (20_000, 15))].mean(axis=1), [2.5, 97.5]
    )
    # The plants have a tail to the left, and so has the interval.
    assert result.interval_low < percentile[0] - 0.7
    assert result.interval_high < percentile[1]


def test_of_many_clips_it_is_the_normal_interval():
    rng = np.random.default_rng(5)
    baseline = rng.normal(15, 3, 40)
    adapted = baseline + rng.normal(0.4, 0.5, 40)
    result = paired_comparison(baseline, adapted, "maximize", samples=20_000, seed=0)
    half_width = 1.96 * (adapted - baseline).std() / math.sqrt(40)
    assert result.interval_low == pytest.approx(result.difference - half_width, abs=0.02)
    assert result.interval_high == pytest.approx(result.difference + half_width, abs=0.02)
    assert result.wilcoxon_p == stats.wilcoxon(adapted, baseline).pvalue


def test_the_same_seed_gives_the_same_interval_and_another_does_not():
    first, again, other = (
        paired_comparison(DARWIN, DARWIN**2, "maximize", samples=999, seed=seed) for seed in (1, 1, 2)
    )
    assert first.as_json() == again.as_json()
    assert (first.interval_low, first.interval_high) != (other.interval_low, other.interval_high)


def test_samples_of_a_clip_are_averaged_and_are_no_further_clips():
    rng = np.random.default_rng(6)
    baseline, adapted = rng.normal(15, 1, (8, 3)), rng.normal(15.5, 1, (8, 3))
    by_sample = paired_comparison(baseline, adapted, "maximize", samples=500, seed=0)
    by_mean = paired_comparison(baseline.mean(axis=1), adapted.mean(axis=1), "maximize", samples=500, seed=0)
    values, of_means = by_sample.as_json(), by_mean.as_json()
    assert values.pop("within_clip_spread") == pytest.approx(
        np.sqrt(np.mean([np.var(one, ddof=1) for one in adapted - baseline]))
    )
    assert of_means.pop("within_clip_spread") is None  # one sample has no spread
    assert values == pytest.approx(of_means)
    assert values["clips"] == 8


def test_a_table_of_one_sample_is_a_series():
    assert (
        paired_comparison(BASELINE[:, None], ADAPTED, "maximize", samples=100, seed=0).as_json()
        == paired_comparison(BASELINE, pd.DataFrame(ADAPTED), "maximize", samples=100, seed=0).as_json()
    )


SEEN = [0.31, 0.29, 0.3, 0.32, 0.28, 0.33]


@pytest.mark.parametrize(
    ("differences", "direction", "verdict"),
    [
        (SEEN, "maximize", "better"),
        (SEEN, "minimize", "worse"),
        (np.negative(SEEN), "minimize", "better"),
        (np.negative(SEEN), "maximize", "worse"),
        ([*SEEN, -0.3, -0.31, -0.29], "maximize", "unclear"),
        (SEEN[:5], "maximize", "too few clips"),
        ([0.3] * 100, "minimize", "worse"),
    ],
)
def test_the_verdict(differences, direction, verdict):
    assert compared(differences, direction).verdict == verdict


@pytest.mark.parametrize(
    ("low", "high", "p", "rank_biserial", "seen"),
    [
        (0.1, 0.3, 0.01, 0.5, 1),
        (-0.3, -0.1, 0.01, -0.5, -1),
        (-0.1, 0.3, 0.01, 0.5, 0),  # the test alone
        (0.1, 0.3, 0.06, 0.5, 0),  # the interval alone
        (0.1, 0.3, 0.01, -0.5, 0),  # each sees another thing
        (math.nan, math.nan, 0.01, 0.5, 0),
        (0.1, 0.3, math.nan, 0.0, 0),
    ],
)
def test_an_effect_is_seen_where_interval_and_test_agree(low, high, p, rank_biserial, seen):
    assert effect_seen(low, high, p, rank_biserial) == seen


def test_a_mean_that_a_few_clips_make_against_all_others_is_no_improvement():
    result = compared(np.concatenate([np.linspace(-0.2, -0.1, 90), np.linspace(4, 6, 10)]), samples=5000)
    assert result.interval_low > 0
    assert result.wilcoxon_p < 0.001
    assert result.share_improved == 0.1
    assert result.verdict == "unclear"


def test_one_clip_has_a_difference_but_no_interval():
    result = paired_comparison(pd.Series([15.0]), pd.Series([15.5]), "maximize", samples=100, seed=0)
    assert result.difference == 0.5
    assert math.isnan(result.interval_low)
    assert math.isnan(result.interval_high)
    assert math.isnan(result.spread)
    assert result.verdict == "too few clips"
    values = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert values["interval_low"] is values["wilcoxon_p"] is values["clips_needed"] is None
    assert values["share_improved"] == 1
    assert (values["share_low"], values["share_high"]) == (pytest.approx(0.2065, abs=1e-4), 1)


def test_one_clip_has_a_spread_within():
    result = paired_comparison([[1.0, 2.0, 3.0]], [[2.0, 4.0, 6.0]], "maximize", samples=10, seed=0)
    assert (result.difference, result.within_clip_spread) == (2, 1)


@pytest.mark.parametrize("clips", [2, 6, 20, 60])
def test_no_difference_at_all_is_an_interval_of_zero(clips):
    values = np.linspace(14, 16, clips)
    result = paired_comparison(values, values, "maximize", samples=100, seed=0)
    assert (result.interval_low, result.interval_high, result.wilcoxon_p) == (0, 0, 1)
    assert result.share_improved == result.spread == result.rank_biserial == 0
    assert result.clips_needed is None
    assert result.verdict == ("too few clips" if clips == 2 else "unclear")


def test_the_same_samples_in_another_order_are_no_difference():
    values = np.random.default_rng(7).normal(0.3, 0.1, (20, 5))
    result = paired_comparison(values, values[:, [3, 1, 4, 0, 2]], "maximize", samples=100, seed=0)
    assert (result.difference, result.interval_low, result.interval_high, result.wilcoxon_p) == (0, 0, 0, 1)


def test_a_constant_difference_is_its_own_interval():
    baseline = np.random.default_rng(8).normal(15, 3, 12)
    result = paired_comparison(baseline, baseline + 0.3, "maximize", samples=100, seed=0)
    assert result.interval_low == result.interval_high == pytest.approx(0.3)
    assert result.wilcoxon_p == pytest.approx(2 / 2**12)
    assert result.verdict == "better"
    assert result.clips_needed == 6


def test_a_single_differing_clip_has_an_interval_too():
    result = compared([0.0] * 7 + [1.0])
    assert 0 <= result.interval_low < 1 / 8 < result.interval_high < 1
    assert result.verdict == "unclear"


@pytest.mark.parametrize(
    "wrong",
    [
        BASELINE[:3],
        np.stack([BASELINE, BASELINE], axis=1),
        BASELINE[:, None, None],
        np.array([1, 2, 3, np.nan]),
        np.array([1, 2, 3, np.inf]),
    ],
)
def test_values_that_cannot_be_paired_are_refused(wrong):
    for sides in ((BASELINE, wrong), (wrong, BASELINE)):
        with pytest.raises(ValueError, match=r"expected|finite"):
            paired_comparison(*sides, "maximize", samples=100, seed=0)


@pytest.mark.parametrize("empty", [np.empty(0), np.empty((0, 3)), np.empty((3, 0))])
def test_no_clip_or_no_sample_is_refused(empty):
    with pytest.raises(ValueError, match="expected"):
        paired_comparison(empty, empty, "maximize", samples=100, seed=0)


def test_the_file_has_the_numbers_and_the_verdict():
    values = json.loads(json.dumps(compared(DARWIN).as_json(), allow_nan=False))
    assert values.pop("verdict") == "unclear"  # p is 0.041, but the interval holds zero
    assert values.pop("within_clip_spread") is None
    assert list(values) == [
        "clips",
        "baseline",
        "adapted",
        "difference",
        "interval_low",
        "interval_high",
        "share_improved",
        "wilcoxon_p",
        "share_low",
        "share_high",
        "share_unchanged",
        "clips_needed",
    ]
    assert isinstance(values["clips_needed"], int)
