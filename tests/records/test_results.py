import math

import numpy as np
import pandas as pd
import pytest
from clip_results import make_result

from lora_tta.errors import UserError
from lora_tta.records.results import compare, metric_names, pair_results, read_results, write_results

ODD_IDS = ("007", "NA", "1e5", 'v_<b>, "quoted"')


def test_results_come_back_as_they_were_written(tmp_path):
    written = [
        make_result(clip_id, 15 + i / 3, losses=(0.5, 0.25), class_name="NA")
        for i, clip_id in enumerate(ODD_IDS)
    ]
    write_results(tmp_path, written)
    for before, after in zip(written, read_results(tmp_path), strict=True):
        assert (after.clip_id, after.class_name, after.losses) == (before.clip_id, "NA", (0.5, 0.25))
        assert after.metrics.summary == pytest.approx(before.metrics.summary, rel=1e-8)
        assert after.metrics.per_frame.keys() == before.metrics.per_frame.keys()
        for name, values in before.metrics.per_frame.items():
            np.testing.assert_array_equal(after.metrics.per_frame[name], values)
        assert (after.adapt_seconds, after.generate_seconds) == (
            before.adapt_seconds,
            before.generate_seconds,
        )
        assert after.peak_memory_bytes == before.peak_memory_bytes


def test_results_without_adaptation_have_no_losses(tmp_path):
    write_results(tmp_path, [make_result("a", 15)])
    assert (tmp_path / "losses.csv").read_text() == "clip_id,step,loss\n"
    assert read_results(tmp_path)[0].losses == ()


def test_tables_have_the_documented_columns_and_frame_numbers(tmp_path):
    write_results(tmp_path, [make_result("a", 15, losses=(0.5,)), make_result("b", 16, losses=(0.4,))])
    clips, frames = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("clips", "frames"))
    metrics = ["psnr", "ssim", "lpips", "temporal_consistency"]
    costs = ["adapt_seconds", "generate_seconds", "peak_memory_bytes"]
    assert list(clips) == ["clip_id", "class_name", *metrics, *costs]
    assert list(frames) == ["clip_id", "frame", *metrics]
    assert list(frames["frame"]) == [*range(34, 66)] * 2
    assert list(frames["frame"][frames["temporal_consistency"].isna()]) == [34, 34]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clips.csv", "frames.csv", "losses.csv"]


def test_writing_the_same_results_gives_the_same_bytes(tmp_path):
    results = [make_result("a", 15 + 1 / 7, losses=(0.1 + 0.2,))]
    write_results(tmp_path / "first", results)
    write_results(tmp_path / "second", read_results(tmp_path / "first"))
    for name in ("clips.csv", "frames.csv", "losses.csv"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_missing_results_say_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"clips\.csv not found: run the stage"):
        read_results(tmp_path)


def test_clips_are_paired_by_id_not_by_order():
    baseline = [make_result("a", 10), make_result("b", 20)]
    adapted = [make_result("b", 21), make_result("a", 12)]
    assert [(x.clip_id, y.clip_id) for x, y in pair_results(baseline, adapted)] == [("a", "a"), ("b", "b")]
    psnr = compare(baseline, adapted, samples=100, seed=0)["psnr"]
    assert (psnr.difference, psnr.share_improved) == (pytest.approx(1.5), 1)
    assert 1 <= psnr.interval_low <= psnr.interval_high <= 2


def test_every_metric_is_compared_in_its_own_direction():
    comparisons = compare([make_result("a", 10)], [make_result("a", 12)], samples=100, seed=0)
    assert list(comparisons) == ["psnr", "ssim", "lpips", "temporal_consistency"]
    assert comparisons["lpips"].difference < 0
    assert all(comparison.share_improved == 1 for comparison in comparisons.values())
    assert math.isnan(comparisons["psnr"].interval_low)


def test_lpips_is_never_compared_with_its_untrained_stand_in():
    baseline = [make_result("a", 10, perceptual="lpips")]
    adapted = [make_result("a", 12, perceptual="lpips_untrained")]
    with pytest.raises(UserError, match=r"lpips, .*lpips_untrained, .*never mixed"):
        compare(baseline, adapted, samples=100, seed=0)


def test_one_set_never_mixes_both_either(tmp_path):
    mixed = [make_result("a", 10, perceptual="lpips"), make_result("b", 12, perceptual="lpips_untrained")]
    with pytest.raises(UserError, match="never mixed"):
        write_results(tmp_path, mixed)
    assert list(tmp_path.iterdir()) == []


def test_sets_of_different_clips_are_not_compared():
    baseline = [make_result("a", 10), make_result("b", 11)]
    adapted = [make_result("a", 10), make_result("c", 11)]
    with pytest.raises(UserError, match=r"different clips \(2 on one side only, such as b, c\)"):
        compare(baseline, adapted, samples=100, seed=0)


def test_no_clips_is_an_error_that_names_the_settings():
    with pytest.raises(UserError, match=r"preprocess\.num_clips"):
        metric_names([])
