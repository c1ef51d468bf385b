import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lora_tta.evaluation.power import clips_needed, power_at, signed_rank_level, t_test_power

DARWIN = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75], dtype=float)


def test_the_power_of_a_paired_t_test_is_that_of_gpower():
    """Its guide's example of matched pairs: dz = 0.421637, 50 pairs, power 0.832114."""
    assert t_test_power(50, 0.421637, 1, 0.05) == pytest.approx(0.832114, abs=1e-6)


def test_the_power_of_a_paired_t_test_is_the_share_of_studies():
    differences = np.random.default_rng(0).normal(0.5, 1, (20_000, 20))
    test = stats.ttest_1samp(differences, 0, axis=1)
    share = np.mean((test.pvalue < 0.05) & (test.statistic > 0))
    assert t_test_power(20, 0.5, 1, 0.05) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("clips", range(1, 13))
def test_the_level_is_the_largest_p_value_that_a_signed_rank_test_can_have(clips):
    signs = 1 - 2 * ((np.arange(2**clips)[:, None] >> np.arange(clips)) & 1)
    sums = np.clip(signs, 0, 1) @ np.arange(1, clips + 1)
    p_values = [2 * np.mean(sums <= bound) for bound in range(clips * (clips + 1) // 4 + 1)]
    expected = max((p for p in p_values if p < 0.05), default=0)
    assert signed_rank_level(clips) == pytest.approx(expected)
    assert (expected == 0) == (clips < 6)


def test_with_many_clips_the_level_is_the_nominal_one():
    assert 0.049 < signed_rank_level(50) < signed_rank_level(51) == 0.05


def test_more_clips_a_larger_effect_and_less_spread_have_more_power():
    base = power_at(30, 0.4, 1)
    assert 0 < base < power_at(40, 0.4, 1) < 1
    assert base < power_at(30, 0.5, 1)
    assert base < power_at(30, 0.4, 0.9)
    assert base == power_at(30, -0.4, 1) == pytest.approx(power_at(30, 4, 10))
    assert base > power_at(30, 0.4, 1, alpha=0.01)


def test_power_at_its_limits():
    assert power_at(5, 10, 1) == 0  # no verdict
    assert power_at(6, 10, 1, alpha=0.01) == 0  # a p value of six clips is 0.031 at least
    assert power_at(200, 0, 1) == pytest.approx(0.025)  # by chance, and on one side
    assert power_at(6, 1e300, 1e-300) == power_at(6, 1, 0) == 1
    assert power_at(6, 0, 0) == 0


def test_clips_for_darwins_plants_by_hand():
    """d = 20.93 / 37.74 = 0.555; normal distribution: (1.960 + 0.842)^2 / d^2 = 25.5, by 3 / pi 26.7."""
    clips = clips_needed(DARWIN)
    assert 27 <= clips <= 31
    effect, spread = DARWIN.mean(), DARWIN.std(ddof=1)
    assert power_at(clips, effect, spread) >= 0.8 > power_at(clips - 1, effect, spread)
    assert clips_needed(pd.Series(-DARWIN)) == clips_needed(1000 * DARWIN) == clips


def test_a_higher_promise_takes_more_clips():
    assert clips_needed(DARWIN, power=0.5) < clips_needed(DARWIN) < clips_needed(DARWIN, power=0.9)
    assert clips_needed(DARWIN) < clips_needed(DARWIN, alpha=0.01)
    assert clips_needed(DARWIN, power=0.01) == 6


@pytest.mark.parametrize(
    ("differences", "clips"),
    [
        ([1.0, -1.0], None),
        ([0.0, 0.0, 0.0], None),
        ([0.1, 0.2, -0.3], None),  # their mean is 1e-17
        ([0.3, 0.3, 0.3], 6),
        ([5.0, 5.1, 4.9], 6),
    ],
)
def test_no_effect_takes_no_number_of_clips_and_a_clear_one_the_fewest(differences, clips):
    assert clips_needed(differences) == clips


def test_many_clips_are_a_number():
    assert 870_000 < clips_needed(0.00307 + np.array([-1, 1]) / math.sqrt(2)) < 880_000


@pytest.mark.parametrize("wrong", [[], [1.0], [1.0, math.nan], [1.0, math.inf], [[1.0, 2.0]]])
def test_differences_without_a_spread_are_refused(wrong):
    with pytest.raises(ValueError, match="two or more finite"):
        clips_needed(wrong)


@pytest.mark.parametrize("wrong", [{"power": 1}, {"power": 0}, {"alpha": 0}, {"alpha": 1}])
def test_certainty_is_refused(wrong):
    with pytest.raises(ValueError, match="no number of clips"):
        clips_needed(DARWIN, **wrong)


@pytest.mark.parametrize("wrong", [(0, 1, 1), (9, math.nan, 1), (9, 1, -1), (9, 1, math.inf), (9, 1, 1, 2)])
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="no power of"):
        power_at(*wrong)
