import pandas as pd
import pytest
from added_metrics import BRIGHTNESS, add_to_table, with_brightness
from clip_results import make_result

from lora_tta.report.dvc_plots import loss_curve, write_plots

BASELINE = [make_result("a", 10), make_result("b", 20)]
ADAPTED = [make_result("a", 12, losses=(1.0, 0.5)), make_result("b", 19, losses=(3.0,))]


def test_each_measured_metric_has_a_curve_and_differences(tmp_path):
    write_plots(tmp_path, BASELINE, ADAPTED, {}, trials=None)
    metrics = {"psnr.csv", "ssim.csv", "lpips.csv", "temporal_consistency.csv"}
    assert {file.name for file in (tmp_path / "frames").iterdir()} == metrics
    assert {file.name for file in (tmp_path / "clips").iterdir()} == metrics
    assert not (tmp_path / "trials.csv").exists()


def test_a_frame_curve_is_the_mean_over_clips(tmp_path):
    write_plots(tmp_path, BASELINE, ADAPTED, {}, trials=None)
    curve = pd.read_csv(tmp_path / "frames" / "psnr.csv")
    assert list(curve) == ["frame", "baseline", "adapted"]
    assert list(curve["frame"]) == list(range(34, 66))
    assert curve["baseline"].mean() == pytest.approx(15)
    assert curve["adapted"].iloc[0] == pytest.approx(15.5 - 0.155, abs=1e-5)
    assert pd.read_csv(tmp_path / "frames" / "temporal_consistency.csv")["frame"].iloc[0] == 35


def test_a_metric_without_a_series_has_differences_but_no_curve(tmp_path, monkeypatch):
    add_to_table(monkeypatch, BRIGHTNESS)
    sides = (
        [with_brightness(result, 100 + i) for result in side] for i, side in enumerate((BASELINE, ADAPTED))
    )
    write_plots(tmp_path, *sides, {}, trials=None)
    assert list(pd.read_csv(tmp_path / "clips" / "brightness.csv")["difference"]) == [1, 1]
    assert not (tmp_path / "frames" / "brightness.csv").exists()
    assert (tmp_path / "frames" / "psnr.csv").exists()


def test_differences_are_adapted_minus_baseline(tmp_path):
    write_plots(tmp_path, BASELINE, ADAPTED[::-1], {}, trials=None)
    table = pd.read_csv(tmp_path / "clips" / "psnr.csv")
    assert list(table) == ["clip_id", "class_name", "baseline", "adapted", "difference"]
    assert dict(zip(table["clip_id"], table["difference"], strict=True)) == pytest.approx({"a": 2, "b": -1})


def test_the_loss_curve_covers_the_clips_that_reached_a_step():
    losses = loss_curve(ADAPTED)
    assert list(losses) == ["step", "mean", "quartile_1", "quartile_3"]
    assert losses.to_numpy().tolist() == [[1, 2.0, 1.5, 2.5], [2, 0.5, 0.5, 0.5]]


def test_trials_are_written_as_given(tmp_path):
    trials = pd.DataFrame({"number": [0, 1], "learning_rate": [1e-4, 2e-4], "psnr": [15.5, None]})
    write_plots(tmp_path, BASELINE, ADAPTED, {}, trials)
    assert (tmp_path / "trials.csv").read_text() == "number,learning_rate,psnr\n0,0.0001,15.5\n1,0.0002,\n"
