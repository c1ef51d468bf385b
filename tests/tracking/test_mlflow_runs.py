"""What a user finds in MLflow, in a real SQLite store."""

import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from plotly.graph_objects import Figure

from lora_tta.data.video import write_video
from lora_tta.errors import FailedWork
from lora_tta.records.clips import Clip
from lora_tta.records.metric_table import ClipMetrics
from lora_tta.records.outcome import ClipOutcome
from lora_tta.records.results import ClipResult
from lora_tta.report.filmstrip import MIN_CELL_WIDTH, frame_strip
from lora_tta.tracking.mlflow_runs import (
    BEST_TAG,
    log_clip,
    log_running_mean,
    log_settings,
    log_study,
    log_summary,
    log_yardsticks,
    open_experiment,
    stage_run,
    tag_state,
)
from lora_tta.tracking.runs import study_run_id, tracked_run
from lora_tta.tracking.store import Store

STRIP = np.zeros((20, 40, 3), dtype=np.uint8)


def outcome_of(folder: Path, clip_id: str, psnr: float, adapted: bool = True) -> ClipOutcome:
    frames = np.zeros((65, 32, 48, 3), dtype=np.uint8)
    write_video(folder / f"{clip_id}.mp4", frames, 24)
    adapter = folder / f"adapter_{clip_id}" if adapted else None
    if adapter:
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text("{}")
        (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    summary = {"psnr": psnr, "ssim": 0.5, "lpips_untrained": 0.1, "temporal_consistency": 30.0}
    return ClipOutcome(
        clip=Clip(
            clip_id, "Class", "class", "a.avi", 65, 24.0, 0, 65, 33, 24, 32, 48, "0", "0", "a.avi", "test"
        ),
        result=ClipResult(
            clip_id=clip_id,
            class_name="Class",
            conditioning_frames=33,
            metrics=ClipMetrics({name: np.full(32, value) for name, value in summary.items()}, summary),
            losses=(2.0, psnr / 10) if adapted else (),
            device="cpu",
            adapt_seconds=3.0,
            generate_seconds=1.0,
            peak_memory_bytes=2**21,
        ),
        video=folder / f"{clip_id}.mp4",
        frames_file=folder / "frames.npy",
        adapter=adapter,
    )


@pytest.fixture
def store(params, empty_database) -> Store:
    shutil.copy(empty_database, params.tracking.uri.removeprefix("sqlite:///"))
    return open_experiment(params.tracking, params.cache.path)


def trial_of(store: Store, number: int):
    """The run of a trial of the study ``study``."""
    return tracked_run(store, f"trial {number}", "trial", f"study/{number}", "study")


def test_a_run_holds_means_clips_losses_adapters_videos_and_strips(store, tmp_path):
    runs = [outcome_of(tmp_path, "a", 20.0), outcome_of(tmp_path, "b", 30.0)]
    with tracked_run(store, "trial", "trial", "trial/0") as opened:
        log_settings(opened, {"rank": 4, "adaptation": {"targets": ["attention"]}})
        for run in runs:
            log_clip(opened, run, STRIP)
        log_summary(opened, runs)

    client = mlflow.MlflowClient()
    run = client.get_run(opened.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"rank": "4", "adaptation.targets": "['attention']"}
    assert run.data.metrics["psnr"] == 25
    assert run.data.metrics["adapt_seconds_per_clip"] == 3
    assert run.data.metrics["peak_memory_mib"] == 2
    per_clip = client.get_metric_history(opened.run_id, "psnr_per_clip")
    assert [(metric.step, metric.value) for metric in per_clip] == [(0, 20), (1, 30)]
    losses = client.get_metric_history(opened.run_id, "loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 2.0), (2, 2.5)]

    files = {
        path.relative_to(tmp_path / "artifacts" / opened.run_id / "artifacts").as_posix()
        for path in (tmp_path / "artifacts" / opened.run_id / "artifacts").rglob("*.*")
    }
    assert {"videos/a.mp4", "videos/b.mp4", "adapters/a/adapter_model.safetensors", "clips.json"} <= files
    assert sum(name.startswith("images/a+step+0") and name.endswith(".png") for name in files) == 1


def test_the_grid_of_images_shows_strips_in_full_size_with_small_frames_enlarged(store, tmp_path):
    frames = np.zeros((65, 32, 48, 3), dtype=np.uint8)
    with tracked_run(store, "trial", "trial", "trial/0") as run:
        log_clip(run, outcome_of(tmp_path, "a", 20.0), frame_strip(frames, frames, frames, 33))
    images = tmp_path / "artifacts" / run.run_id / "artifacts" / "images"
    sizes = {Image.open(path).size for path in images.iterdir()}
    assert len(list(images.iterdir())) == 2
    (size,) = sizes
    assert size[0] > 5 * MIN_CELL_WIDTH


def test_a_stages_run_is_named_after_its_data_begins_with_its_work_and_logs_the_machine(
    params, tmp_path, empty_database, monkeypatch
):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    shutil.copy(empty_database, params.tracking.uri.removeprefix("sqlite:///"))
    started, runs = time.time_ns() // 1_000_000 - 5000, []
    for content in ("clips", "other clips"):
        (tmp_path / "manifest.csv").write_text(content)
        with stage_run(params, "baseline", {}, tmp_path, started) as opened:
            time.sleep(1)
        runs.append(mlflow.MlflowClient().get_run(opened.run_id))
    assert len({run.info.run_name for run in runs}) == 2
    assert all(run.info.run_name.startswith("baseline on data ") for run in runs)
    assert [run.info.start_time for run in runs] == [started] * 2
    assert all("system/cpu_utilization_percentage" in run.data.metrics for run in runs)


def artifacts_of(run_id: str, folder: Path) -> set[str]:
    """Names of a run's artifacts, images by their keys."""
    root = folder / "artifacts" / run_id / "artifacts"
    names = {path.relative_to(root).as_posix() for path in root.rglob("*.*")}
    return {f"{name.partition('+')[0]}.{name.rpartition('.')[2]}" if "+" in name else name for name in names}


def test_a_clip_is_logged_by_itself_while_others_are_under_way(store, tmp_path):
    with tracked_run(store, "trial", "trial", "trial/0") as opened:
        log_clip(opened, outcome_of(tmp_path, "a", 20.0), STRIP)
        first = artifacts_of(opened.run_id, tmp_path)
        assert {"videos/a.mp4", "adapters/a/adapter_config.json", "images/a.png"} <= first
        assert not mlflow.MlflowClient().get_run(opened.run_id).data.metrics
        log_clip(opened, outcome_of(tmp_path, "b", 30.0), STRIP)
    assert {name.replace("a.", "b.") for name in first if "/a." in name} <= artifacts_of(
        opened.run_id, tmp_path
    )


def test_a_thread_without_an_active_run_logs_to_the_run_that_it_is_given(store, tmp_path):
    runs = [outcome_of(tmp_path, "a", 20.0)]
    with tracked_run(store, "trial", "trial", "trial/0") as opened, ThreadPoolExecutor(1) as thread:
        for log, arguments in [
            (log_settings, ({"rank": 4},)),
            (log_running_mean, ("psnr", 20.0, 1)),
            (log_clip, (runs[0], STRIP)),
            (log_summary, (runs,)),
            (tag_state, ("complete",)),
        ]:
            thread.submit(log, opened, *arguments).result()
    run = mlflow.MlflowClient().get_run(opened.run_id)
    assert run.data.params == {"rank": "4"}
    assert (run.data.metrics["running_psnr"], run.data.metrics["psnr"]) == (20, 20)
    assert run.data.tags["lora_tta.state"] == "complete"
    assert {"videos/a.mp4", "clips.json", "clips.csv"} <= artifacts_of(opened.run_id, tmp_path)
    (only_run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert only_run.info.run_id == opened.run_id


def test_a_baseline_has_no_loss_and_no_adapters(store, tmp_path):
    outcome = outcome_of(tmp_path, "a", 20.0, adapted=False)
    with tracked_run(store, "baseline", "baseline", "baseline/0") as opened:
        log_clip(opened, outcome, STRIP)
        log_summary(opened, [outcome])
    run = mlflow.MlflowClient().get_run(opened.run_id)
    assert "loss" not in run.data.metrics
    assert not list((tmp_path / "artifacts").rglob("adapters"))


def test_the_gain_over_the_baseline_is_that_on_the_same_clips(store, tmp_path):
    for name in ("adapted", "baseline"):
        (tmp_path / name).mkdir()
    adapted = [outcome_of(tmp_path / "adapted", "a", 20.0), outcome_of(tmp_path / "adapted", "b", 30.0)]
    baseline = [outcome_of(tmp_path / "baseline", name, 24.0, adapted=False) for name in ("a", "b")]
    with tracked_run(store, "trial", "trial", "trial/0") as opened:
        log_summary(opened, adapted, baseline)
    metrics = mlflow.MlflowClient().get_run(opened.run_id).data.metrics
    assert (metrics["psnr"], metrics["psnr_gain"]) == (25, 1)


def test_means_over_the_clips_that_chose_the_settings_have_names_of_their_own(store, tmp_path):
    outcomes = [outcome_of(tmp_path, name, psnr) for name, psnr in (("a", 40.0), ("b", 20.0), ("c", 22.0))]
    outcomes[0] = replace(outcomes[0], clip=replace(outcomes[0].clip, split="search"))
    with tracked_run(store, "final", "final", "final/0") as opened:
        log_summary(opened, outcomes)
    metrics = mlflow.MlflowClient().get_run(opened.run_id).data.metrics
    assert (metrics["psnr"], metrics["search_clips/psnr"]) == (21, 40)
    table = json.loads((tmp_path / "artifacts" / opened.run_id / "artifacts" / "clips.json").read_text())
    assert [row[table["columns"].index("split")] for row in table["data"]] == ["search", "test", "test"]


def test_yardsticks_are_means_over_the_test_clips(store, tmp_path):
    runs = [
        outcome_of(tmp_path, clip_id, psnr, adapted=False) for clip_id, psnr in (("a", 20.0), ("b", 30.0))
    ]
    searched = replace(runs[1], clip=replace(runs[1].clip, split="search"))
    with tracked_run(store, "baseline", "baseline", "baseline/0") as opened:
        log_yardsticks(opened, {"last_frame": [runs[0], searched], "other_seed": [searched]})
    metrics = mlflow.get_run(opened.run_id).data.metrics
    assert metrics["yardstick_last_frame/psnr"] == 20
    assert not any(name.startswith("yardstick_other_seed") for name in metrics)


def test_trials_are_children_of_their_study(store):
    study = study_run_id(store, "study")
    with trial_of(store, 0) as opened:
        pass
    run = mlflow.MlflowClient().get_run(opened.run_id)
    assert run.data.tags["mlflow.parentRunId"] == study
    assert run.data.tags["lora_tta.kind"] == "trial"
    assert run.info.status == "FINISHED"


def visible(store: Store) -> dict[str, tuple[str, str]]:
    """Id and status of the visible runs by their keys."""
    runs = store.client.search_runs([store.experiment_id])
    found = {run.data.tags["lora_tta.key"]: (run.info.run_id, run.info.status) for run in runs}
    assert len(found) == len(runs)
    return found


def test_a_clip_may_have_any_name(store, tmp_path):
    run = outcome_of(tmp_path, "söme (clip)", 20.0, adapted=False)
    with tracked_run(store, "baseline", "baseline", "baseline/0") as opened:
        log_clip(opened, run, STRIP)
    assert [path.name[:12] for path in tmp_path.rglob("images/*.png")] == ["s_me _clip_+"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FailedWork("the training loss is nan at step 2"), "the training loss is nan at step 2"),
        (RuntimeError("no space\nleft"), "RuntimeError: no space left"),
    ],
)
def test_a_run_that_raises_is_failed_and_shows_the_reason(store, error, reason):
    with pytest.raises(type(error)), tracked_run(store, "trial", "trial", "trial/0") as opened:
        raise error
    run = mlflow.MlflowClient().get_run(opened.run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["lora_tta.failure"] == reason
    assert reason in run.data.tags["mlflow.note.content"]
    assert run.data.tags["lora_tta.state"] == "failed"


def test_the_best_trial_is_tagged_and_its_adapters_become_the_best_version_of_the_model(
    store, params, tmp_path
):
    study = study_run_id(store, "study")
    run_ids = []
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        with trial_of(store, number) as opened:
            log_clip(opened, outcome_of(tmp_path / str(number), "a", 20.0), STRIP)
        run_ids.append(opened.run_id)
    trials = pd.DataFrame({"trial": [0, 1], "psnr": [20.0, 21.0]})
    client, name = mlflow.MlflowClient(), params.tracking.experiment
    for best in (0, 1):  # as when a longer study has found a better one
        log_study(store, "study", f"study/{best}", {"rank": 4}, "the result", trials, {})
        tagged = client.search_runs([store.experiment_id], f"tags.`{BEST_TAG}` = 'study'")
        assert [run.info.run_id for run in tagged] == [run_ids[best]]
        assert client.get_model_version_by_alias(name, "best").run_id == run_ids[best]
    run = client.get_run(study)
    assert run.data.tags["best.run"] == run_ids[1]
    assert run.data.tags["best.rank"] == "4"
    assert run.data.tags["mlflow.note.content"] == "the result"
    assert run.data.metrics["trials"] == 2
    assert run.info.status == "FINISHED"


def test_a_best_trial_without_adapters_is_tagged_and_not_registered(store, params):
    with trial_of(store, 0):
        pass
    log_study(store, "study", "study/0", {"rank": 4}, "the result", pd.DataFrame({"trial": [0]}), {})
    assert visible(store).keys() == {"study", "study/0"}
    assert not store.client.search_registered_models()


def test_figures_are_shown_without_a_network(store, tmp_path):
    figures = {"history": Figure()}
    log_study(store, "study", "study/0", {}, "", pd.DataFrame({"trial": [0]}), figures)
    (page,) = (tmp_path / "artifacts").rglob("figures/history.html")
    text = page.read_text()
    assert "<script src=" not in text
    assert len(text) > 1_000_000


def test_the_experiment_is_found_again(store, params):
    again = open_experiment(params.tracking, params.cache.path)
    assert again.experiment_id == store.experiment_id


def test_a_process_killed_while_it_makes_the_database_leaves_nothing_in_the_way(params):
    command = (
        "import sys; from pathlib import Path; from lora_tta.config import TrackingParams; "
        "from lora_tta.tracking.mlflow_runs import open_experiment; "
        "open_experiment(TrackingParams.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    )
    database = Path(params.tracking.uri.removeprefix("sqlite:///"))
    victim = subprocess.Popen(
        [sys.executable, "-c", command, params.tracking.model_dump_json(), params.cache.path]
    )
    # Past the first tables, before the last.
    while not any(partial.stat().st_size > 20_000 for partial in database.parent.glob(".*.partial.db")):
        assert victim.poll() is None
        time.sleep(0.005)
    victim.kill()
    victim.wait()
    assert not database.exists()
    open_experiment(params.tracking, params.cache.path)
    assert database.exists()
