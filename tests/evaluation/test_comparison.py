import math

import pytest
from added_metrics import BRIGHTNESS, add_to_table, with_brightness
from clip_results import make_result

from lora_tta.errors import UserError
from lora_tta.evaluation.comparison import compare
from lora_tta.records.results import mean_over_samples


def test_clips_are_compared_by_id_not_by_order():
    baseline = [make_result("a", 10), make_result("b", 20)]
    adapted = [make_result("b", 21), make_result("a", 12)]
    psnr = compare(baseline, adapted, samples=100, seed=0)["psnr"]
    assert (psnr.difference, psnr.share_improved) == (pytest.approx(1.5), 1)
    assert 1 <= psnr.interval_low <= psnr.interval_high <= 2


def test_samples_are_averaged_before_clips_are_counted():
    def clips(*psnr_of_samples):
        return [
            mean_over_samples([make_result(clip_id, psnr) for psnr in values])
            for clip_id, values in zip("ab", psnr_of_samples, strict=True)
        ]

    psnr = compare(clips((10, 12), (20, 20)), clips((11, 15), (20, 24)), samples=100, seed=0)["psnr"]
    assert psnr.clips == 2
    # 2 and 2 on average, of 1 and 3, and of 0 and 4.
    assert psnr.difference == pytest.approx(2)
    assert psnr.within_clip_spread == pytest.approx(math.sqrt((2 + 8) / 2))


def test_every_metric_is_compared_in_its_own_direction():
    comparisons = compare([make_result("a", 10)], [make_result("a", 12)], samples=100, seed=0)
    assert list(comparisons) == ["psnr", "ssim", "lpips", "temporal_consistency"]
    assert comparisons["lpips"].difference < 0
    assert all(comparison.share_improved == 1 for comparison in comparisons.values())
    assert math.isnan(comparisons["psnr"].interval_low)


def test_a_metric_that_is_added_to_the_table_is_compared_after_the_others(monkeypatch):
    add_to_table(monkeypatch, BRIGHTNESS)
    baseline, adapted = (
        [with_brightness(make_result(clip_id, 10), value) for clip_id in "abcdef"] for value in (100.0, 97.5)
    )
    comparisons = compare(baseline, adapted, samples=100, seed=0)
    assert list(comparisons) == ["psnr", "ssim", "lpips", "temporal_consistency", "brightness"]
    assert comparisons["brightness"].difference == pytest.approx(-2.5)
    assert comparisons["brightness"].verdict == "worse"


def test_lpips_is_never_compared_with_its_untrained_stand_in():
    baseline = [make_result("a", 10, perceptual="lpips")]
    adapted = [make_result("a", 12, perceptual="lpips_untrained")]
    with pytest.raises(UserError, match=r"lpips, .*lpips_untrained, .*never mixed"):
        compare(baseline, adapted, samples=100, seed=0)


def test_sets_of_different_clips_are_not_compared():
    baseline = [make_result("a", 10), make_result("b", 11)]
    adapted = [make_result("a", 10), make_result("c", 11)]
    with pytest.raises(UserError, match=r"different clips \(2 on one side only, such as b, c\)"):
        compare(baseline, adapted, samples=100, seed=0)
