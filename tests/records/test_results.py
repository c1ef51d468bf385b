from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from added_metrics import BRIGHTNESS, add_to_table, with_brightness
from clip_results import make_result

from lora_tta.errors import UserError
from lora_tta.records.results import (
    chosen_sample,
    mean_costs,
    mean_over_samples,
    metric_names,
    pair_results,
    read_results,
    write_costs,
    write_results,
)

ODD_IDS = ("007", "NA", "1e5", 'v_<b>, "quoted"')


def test_results_come_back_as_they_were_written(tmp_path):
    written = [
        make_result(clip_id, 15 + i / 3, losses=(0.5, 0.25), class_name="NA")
        for i, clip_id in enumerate(ODD_IDS)
    ]
    write_results(tmp_path, written)
    for before, after in zip(written, read_results(tmp_path), strict=True):
        assert (after.clip_id, after.class_name, after.losses) == (before.clip_id, "NA", (0.5, 0.25))
        assert after.work == before.work
        assert after.metrics.summary == pytest.approx(before.metrics.summary, rel=1e-8)
        assert after.metrics.per_frame.keys() == before.metrics.per_frame.keys()
        for name, values in before.metrics.per_frame.items():
            np.testing.assert_array_equal(after.metrics.per_frame[name], values)


def test_window_seed_and_split_come_back_also_where_there_is_no_noise(tmp_path):
    written = [
        replace(make_result("007", 15), split="search", frames_sha256="ab12", seed=2**31 - 1),
        replace(make_result("NA", 16), frames_sha256="007", seed=None),
    ]
    write_results(tmp_path, written)
    found = [(result.split, result.frames_sha256, result.seed) for result in read_results(tmp_path)]
    assert found == [("search", "ab12", 2**31 - 1), ("test", "007", None)]


def test_a_mean_over_samples_keeps_each_of_them_on_the_disk_too(tmp_path):
    samples = [make_result("007", psnr, losses=(0.5,)) for psnr in (15, 16, 20)]
    mean = mean_over_samples(samples)
    assert mean.metrics.summary["psnr"] == pytest.approx(17)
    np.testing.assert_allclose(mean.metrics.per_frame["psnr"].mean(), 17, rtol=1e-6)
    assert mean.by_sample("psnr") == pytest.approx([15, 16, 20])
    write_results(tmp_path, [mean])
    (read,) = read_results(tmp_path)
    assert read.by_sample("psnr") == pytest.approx([15, 16, 20])
    assert read.metrics.summary["psnr"] == pytest.approx(17)


def test_a_chosen_sample_keeps_its_values_and_the_others_as_candidates(tmp_path):
    samples = [make_result("a", psnr) for psnr in (15, 20, 16)]
    chosen = chosen_sample(samples, 2)
    assert chosen.by_sample("psnr") == pytest.approx([16])
    assert chosen.best_by_truth("psnr") == pytest.approx(20)
    write_results(tmp_path, [chosen])
    (read,) = read_results(tmp_path)
    assert read.by_sample("psnr") == pytest.approx([16])
    assert [sample["psnr"] for sample in read.candidates] == pytest.approx([15, 20, 16])
    assert not (tmp_path / "samples.csv").exists()
    with pytest.raises(UserError, match=r"numbers of samples \(1 and 3\)"):
        pair_results([make_result("a", 15)], [chosen])


def test_one_sample_is_its_own_mean_and_needs_no_file(tmp_path):
    one = make_result("a", 15)
    assert mean_over_samples([one]) is one
    write_results(tmp_path, [one])
    assert not (tmp_path / "samples.csv").exists()
    assert read_results(tmp_path)[0].by_sample("psnr") == pytest.approx([15])


def test_arms_of_different_numbers_of_samples_are_no_pairs():
    two = mean_over_samples([make_result("a", 15), make_result("a", 16)])
    with pytest.raises(UserError, match=r"numbers of samples \(1 and 2\).*generation\.num_samples"):
        pair_results([make_result("a", 15)], [two])


def test_results_without_adaptation_have_no_losses(tmp_path):
    write_results(tmp_path, [make_result("a", 15)])
    assert (tmp_path / "losses.csv").read_text() == "clip_id,step,loss\n"
    assert read_results(tmp_path)[0].losses == ()


def test_tables_have_the_documented_columns_and_frame_numbers(tmp_path):
    results = [make_result("a", 15, losses=(0.5,)), make_result("b", 16, losses=(0.4,))]
    write_results(tmp_path, results)
    clips, frames = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("clips", "frames"))
    metrics = ["psnr", "ssim", "lpips", "temporal_consistency"]
    assert list(clips) == ["clip_id", "class_name", "split", "work", "frames_sha256", "seed", *metrics]
    assert list(frames) == ["clip_id", "frame", *metrics]
    assert list(frames["frame"]) == [*range(34, 66)] * 2
    assert list(frames["frame"][frames["temporal_consistency"].isna()]) == [34, 34]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clips.csv", "frames.csv", "losses.csv"]
    write_costs(tmp_path / "costs.csv", results)
    costs = ["clip_id", "work", "device", "adapt_seconds", "generate_seconds", "peak_memory_bytes"]
    assert list(pd.read_csv(tmp_path / "costs.csv")) == costs


def test_writing_the_same_results_gives_the_same_bytes_whatever_they_cost(tmp_path):
    results = [make_result("a", 15 + 1 / 7, losses=(0.1 + 0.2,))]
    write_results(tmp_path / "first", results)
    write_results(tmp_path / "second", [replace(results[0], adapt_seconds=99.0, device="another")])
    write_results(tmp_path / "third", read_results(tmp_path / "first"))
    for name in ("clips.csv", "frames.csv", "losses.csv"):
        tables = {(tmp_path / folder / name).read_bytes() for folder in ("first", "second", "third")}
        assert len(tables) == 1


def test_a_metric_a_clip_without_a_series_is_kept_beside_the_others(tmp_path, monkeypatch):
    add_to_table(monkeypatch, BRIGHTNESS)
    written = [with_brightness(make_result(name, 15), 100 + 1 / 3) for name in ("a", "b")]
    write_results(tmp_path, written)
    assert "brightness" in pd.read_csv(tmp_path / "clips.csv")
    assert "brightness" not in pd.read_csv(tmp_path / "frames.csv")
    for result in read_results(tmp_path):
        assert result.metrics.summary["brightness"] == pytest.approx(100 + 1 / 3)
        assert set(result.metrics.per_frame) == {"psnr", "ssim", "lpips", "temporal_consistency"}


def test_missing_results_say_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"clips\.csv not found: run the stage"):
        read_results(tmp_path)


def costs_of(result) -> tuple:
    return result.device, result.adapt_seconds, result.generate_seconds, result.peak_memory_bytes


def test_costs_come_back_from_a_table_of_their_own(tmp_path):
    written = [make_result(clip_id, 15 + i, losses=(0.5, 0.25)) for i, clip_id in enumerate(ODD_IDS)]
    write_results(tmp_path, written)
    write_costs(tmp_path / "costs" / "costs.csv", written)
    read = read_results(tmp_path, tmp_path / "costs" / "costs.csv")
    assert [costs_of(result) for result in read] == [("cpu", 3.0, 2.25, 3 * 2**30)] * len(ODD_IDS)


def test_costs_of_another_computation_are_never_joined(tmp_path):
    results = [make_result("a", 15), make_result("b", 16)]
    write_results(tmp_path, results)
    write_costs(tmp_path / "costs.csv", [results[0], replace(results[1], work="another point")])
    known, unknown = read_results(tmp_path, tmp_path / "costs.csv")
    assert costs_of(known) == costs_of(results[0])
    assert costs_of(unknown) == (None, None, None, None)


@pytest.mark.parametrize("costs", [None, "missing.csv"])
def test_without_a_table_of_costs_they_are_unknown_and_the_rest_is_there(tmp_path, costs):
    write_results(tmp_path, [make_result("a", 15)])
    (result,) = read_results(tmp_path, costs and tmp_path / costs)
    assert costs_of(result) == (None, None, None, None)
    assert result.metrics.summary["psnr"] == pytest.approx(15)


def test_unknown_costs_are_left_out_of_the_table(tmp_path):
    write_costs(tmp_path / "costs.csv", [make_result("a", 15, device=None), make_result("b", 15)])
    assert list(pd.read_csv(tmp_path / "costs.csv")["clip_id"]) == ["b"]


def test_costs_of_a_set_are_mean_seconds_and_the_highest_memory():
    results = [make_result("a", 15, losses=(1.0,)), make_result("b", 15, losses=(1.0, 0.5, 0.2))]
    results[0] = replace(results[0], peak_memory_bytes=5 * 2**30)
    assert mean_costs(results) == {
        "adapt_seconds_per_clip": 3.0,
        "generate_seconds_per_clip": 2.25,
        "peak_memory_mib": 5 * 1024,
    }


def test_a_set_with_one_unknown_cost_has_no_mean():
    assert mean_costs([make_result("a", 15), make_result("b", 15, device=None)]) == {}


def test_clips_are_paired_by_id_in_the_order_of_the_baseline():
    baseline = [make_result("a", 10), make_result("b", 20)]
    adapted = [make_result("b", 21), make_result("a", 12)]
    pairs = pair_results(baseline, adapted)
    assert [(before.clip_id, after.clip_id) for before, after in pairs] == [("a", "a"), ("b", "b")]


def test_one_set_never_mixes_lpips_with_its_untrained_stand_in(tmp_path):
    mixed = [make_result("a", 10, perceptual="lpips"), make_result("b", 12, perceptual="lpips_untrained")]
    with pytest.raises(UserError, match="never mixed"):
        write_results(tmp_path, mixed)
    assert list(tmp_path.iterdir()) == []


def test_no_clips_is_an_error_that_names_the_settings():
    with pytest.raises(UserError, match=r"preprocess\.num_clips"):
        metric_names([])


def test_features_come_back_beside_the_tables_and_are_the_same_bytes_again(tmp_path):
    features = [np.full((2, 3), number, np.float32) for number in (1, 2)]
    results = [make_result(name, 15.0, features=pair) for name, pair in zip("ab", features, strict=True)]
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        write_results(folder, results)
    back = read_results(tmp_path / "one")
    assert all(np.array_equal(result.features, pair) for result, pair in zip(back, features, strict=True))
    assert (tmp_path / "one/features.npz").read_bytes() == (tmp_path / "two/features.npz").read_bytes()


def test_without_features_there_is_no_file_of_them(tmp_path):
    write_results(tmp_path, [make_result("a", 15.0)])
    assert not (tmp_path / "features.npz").exists()
    assert read_results(tmp_path)[0].features is None
