import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lora_tta.evaluation.statistics import paired_comparison

BASELINE = np.array([15.0, 16.0, 14.0, 15.0])
ADAPTED = np.array([15.5, 16.2, 13.9, 15.0])


def test_means_and_share_by_hand():
    result = paired_comparison(BASELINE, ADAPTED, "maximize", samples=1000, seed=0)
    assert result.clips == 4
    assert (result.baseline, result.adapted) == (15.0, pytest.approx(15.15))
    assert result.difference == pytest.approx(0.15)
    assert result.share_improved == 0.5  # the tie is no improvement


def test_improvement_follows_the_direction():
    result = paired_comparison(BASELINE, ADAPTED, "minimize", samples=1000, seed=0)
    assert result.share_improved == 0.25
    assert result.difference == pytest.approx(0.15)


def test_the_interval_is_that_of_resampled_clips():
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
        paired_comparison(BASELINE, ADAPTED, "maximize", samples=999, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert (first.interval_low, first.interval_high) != (other.interval_low, other.interval_high)


@pytest.mark.parametrize(
    ("difference", "direction", "verdict"),
    [
        (0.3, "maximize", "better"),
        (0.3, "minimize", "worse"),
        (-0.3, "minimize", "better"),
        (-0.3, "maximize", "worse"),
    ],
)
def test_the_verdict_is_clear_where_the_interval_leaves_out_zero(difference, direction, verdict):
    result = paired_comparison(BASELINE, BASELINE + difference, direction, samples=100, seed=0)
    assert result.verdict == verdict


def test_the_verdict_is_unclear_where_the_interval_holds_zero():
    assert paired_comparison(BASELINE, ADAPTED, "maximize", samples=1000, seed=0).verdict == "unclear"


def test_one_clip_has_a_difference_but_no_interval():
    result = paired_comparison(pd.Series([15.0]), pd.Series([15.5]), "maximize", samples=100, seed=0)
    assert result.difference == 0.5
    assert math.isnan(result.interval_low)
    assert math.isnan(result.interval_high)
    assert result.verdict == "unclear"
    values = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert values["interval_low"] is values["wilcoxon_p"] is None
    assert values["share_improved"] == 1


def test_no_difference_at_all_is_an_interval_of_zero():
    result = paired_comparison(BASELINE, BASELINE, "maximize", samples=100, seed=0)
    assert (result.interval_low, result.interval_high, result.wilcoxon_p) == (0, 0, 1)
    assert result.share_improved == 0
    assert result.verdict == "unclear"


@pytest.mark.parametrize("wrong", [BASELINE[:3], np.array([1, 2, 3, np.nan]), np.array([1, 2, 3, np.inf])])
def test_series_that_cannot_be_paired_are_refused(wrong):
    with pytest.raises(ValueError, match=r"one length|finite"):
        paired_comparison(BASELINE, wrong, "maximize", samples=100, seed=0)
