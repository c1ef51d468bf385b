"""What the verdicts are worth: thousands of simulated studies whose truth is known."""

import numpy as np
import pytest
from study_simulation import at_least, at_most, effects, heavy, intervals, normal, skewed

from lora_tta.evaluation.power import clips_needed, power_at
from lora_tta.evaluation.statistics import effect_seen, mean_interval, paired_comparison, signed_rank_test

SIZES = [6, 12, 30, 100]
QUALITIES = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "skewed": lambda rng, shape: rng.lognormal(size=shape),
    "heavy-tailed": lambda rng, shape: rng.standard_t(3, size=shape),
}


def test_studies_at_once_are_judged_as_one_alone():
    differences = np.random.default_rng(0).normal(0.6, 1, (30, 12))
    ends = mean_interval(differences, 300, np.random.default_rng(1))
    together = effect_seen(*ends, *signed_rank_test(differences))
    alone = [
        paired_comparison(np.zeros(12), row, "maximize", samples=300, seed=1).verdict for row in differences
    ]
    assert [{1: "better", 0: "unclear", -1: "worse"}[seen] for seen in together] == alone
    assert {"better", "unclear"} == set(alone)


@pytest.mark.parametrize("clips", SIZES)
@pytest.mark.parametrize("quality", QUALITIES)
def test_arms_that_differ_in_nothing_but_their_seeds_get_no_verdict(quality, clips):
    """In at least 95 % of studies. Two samples a clip; the clip's own quality falls out of the difference."""

    def difference(rng, shape):
        arms = QUALITIES[quality](rng, (2, 2, *shape)).mean(axis=0)
        return arms[1] - arms[0]

    assert np.mean(effects(difference, clips) != 0) <= at_most(0.05)


@pytest.mark.parametrize(("draw", "clips"), [(normal, 6), (normal, 12), (heavy, 30)])
def test_the_interval_alone_would_find_too_much(draw, clips):
    _, low, high = intervals(draw, clips)
    assert np.mean((low > 0) | (high < 0)) > at_most(0.05)


@pytest.mark.parametrize("clips", SIZES)
def test_skewed_changes_that_cancel_get_a_verdict_seldom_but_with_few_clips_too_often(clips):
    """Most clips get a little worse and some much better: an effect on clips, though none on their mean."""
    assert np.mean(effects(skewed, clips) != 0) <= at_most(0.05 if clips >= 30 else 0.08)


@pytest.mark.parametrize(
    ("draw", "clips", "coverage"),
    [(normal, 100, 0.95), (skewed, 100, 0.94), (normal, 30, 0.93), (normal, 12, 0.9), (normal, 6, 0.86)],
)
def test_intervals_hold_the_true_mean_about_as_often_as_they_say(draw, clips, coverage):
    _, low, high = intervals(draw, clips, seed=1)
    assert at_least(coverage) <= np.mean((low <= 0) & (high >= 0)) <= at_most(coverage)


def of_size(effect: float) -> np.ndarray:
    """Two differences with this mean and a spread of 1."""
    return effect + np.array([-1, 1]) / np.sqrt(2)


@pytest.mark.parametrize("effect", [0.3, 0.5, 0.8, 1.2])
def test_an_effect_is_found_as_often_as_promised(effect):
    """Within two studies of a hundred: interval and test must both see it, and the promise is the test's."""
    clips = clips_needed(of_size(effect))
    seen = effects(normal, clips, effect)
    assert at_least(0.78) <= np.mean(seen > 0) <= at_most(power_at(clips, effect, 1) + 0.02)
    assert np.mean(seen < 0) <= at_most(0.001)


@pytest.mark.parametrize("effect", [0.3, 0.8])
def test_an_effect_with_heavy_tails_is_found_at_least_so_often(effect):
    assert np.mean(effects(heavy, clips_needed(of_size(effect)), effect) > 0) >= at_least(0.8)


@pytest.mark.parametrize("effect", [0.3, 0.8])
def test_a_long_tail_against_the_effect_costs_a_tenth(effect):
    found = np.mean(effects(lambda *of: -skewed(*of), clips_needed(of_size(effect)), effect) > 0)
    assert at_least(0.7) <= found <= at_most(0.72)


def test_a_small_effect_that_a_few_clips_make_is_seen_seldom():
    """The mean is up by 0.3 spreads, the median by -0.007: few clips say that adaptation helps."""
    clips = clips_needed(of_size(0.3))
    assert at_least(0.34) <= np.mean(effects(skewed, clips, 0.3) > 0) <= at_most(0.34)


def test_half_the_clips_find_less():
    clips = clips_needed(of_size(0.5))
    half = np.mean(effects(normal, clips // 2, 0.5) > 0)
    promised = power_at(clips // 2, 0.5, 1)
    assert promised < 0.55
    assert at_least(promised - 0.03) <= half <= at_most(promised)
