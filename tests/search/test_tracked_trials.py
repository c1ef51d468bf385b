"""Trials that MLflow's store lacks are logged again, in a real store, and the conclusion of a search."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from small_search import Search

from lora_tta.search.study import finished_trials
from lora_tta.search.tracked_trials import log_missing_trials
from lora_tta.stages import search as stage
from lora_tta.tracking.mlflow_runs import open_experiment

SPACE = {"rank": [2], "learning_rate": [1e-3, 1e30], "num_steps": [2]}
COSTS = ("seconds", "peak_memory")


@pytest.fixture
def finished(undisturbed, tmp_path) -> Search:
    """A study of one complete and one failed trial, and all that belongs to it: a copy for this test."""
    search = undisturbed(num_clips=2, space=SPACE)
    shutil.copytree(search.folders.clips.parent, tmp_path / "study")
    return Search(search.params, tmp_path / "study")


def log_again(search: Search) -> int:
    store = open_experiment(search.params.tracking, search.params.cache.path)
    trials = finished_trials(search.study(), 2)
    return log_missing_trials(
        store, search.study(), trials, search.params, search.worker().runner, search.clips
    )


def content(run: Run) -> dict:
    """What a run holds, but for what differs each time."""
    names = [artifact.path for folder in ("", "adapters", "videos") for artifact in artifacts(run, folder)]
    kept = ("lora_tta.", "mlflow.note", "mlflow.runName", "mlflow.logged")
    return {
        "status": run.info.status,
        "params": run.data.params,
        "metrics": {
            name: value
            for name, value in run.data.metrics.items()
            if not name.startswith(("running_", "system/"))
        },
        "tags": {
            name: value
            for name, value in run.data.tags.items()
            if name.startswith(kept) and name != "lora_tta.opened"
        },
        "artifacts": sorted(names),
        "data": [given.dataset.digest for given in run.inputs.dataset_inputs],
    }


def artifacts(run: Run, folder: str):
    return mlflow.MlflowClient().list_artifacts(run.info.run_id, folder)


def contents(search: Search) -> dict[str, dict]:
    found = {}
    for key, runs in search.runs().items():
        (run,) = runs
        if key:
            found[key] = content(run)
    return found


def test_runs_that_a_store_lacks_are_made_again_once_and_the_same(finished, empty_database):
    before = contents(finished)
    assert log_again(finished) == 0
    for key in ("0", "1"):
        (run,) = finished.runs()[key]
        mlflow.MlflowClient().delete_run(run.info.run_id)
    assert log_again(finished) == 2
    assert log_again(finished) == 0
    assert contents(finished) == before


def test_another_store_is_filled(finished, empty_database, tmp_path):
    before = contents(finished)
    shutil.copy(empty_database, tmp_path / "other.db")
    finished.change("tracking", uri=f"sqlite:///{tmp_path}/other.db", artifact_root=tmp_path / "others")
    assert log_again(finished) == 2
    assert contents(finished) == before
    assert log_again(finished) == 0


def test_without_the_cache_a_trials_run_has_what_the_study_knows(finished, tmp_path):
    before = contents(finished)["0"]
    (run,) = finished.runs()["0"]
    mlflow.MlflowClient().delete_run(run.info.run_id)
    for kind in ("adapter", "continuation", "result"):
        shutil.rmtree(finished.params.cache.path / kind)
    assert log_again(finished) == 1
    after = contents(finished)["0"]
    assert after["params"] == before["params"]
    assert after["metrics"]["psnr"] == before["metrics"]["psnr"]
    assert "not in this cache" in after["tags"]["mlflow.note.content"]


def test_a_trials_run_shows_its_gain_interval_and_data(finished):
    trial = contents(finished)["0"]
    metrics = trial["metrics"]
    assert metrics["psnr_gain_low"] <= metrics["psnr_gain"] <= metrics["psnr_gain_high"]
    note, psnr, gain = trial["tags"]["mlflow.note.content"], metrics["psnr"], metrics["psnr_gain"]
    psnr, gain = metrics["psnr"], metrics["psnr_gain"]
    assert note.startswith(f"PSNR {psnr:.2f} dB, {gain:+z.3f} over no adaptation (")
    assert note.endswith("2 search clips")
    assert len(trial["data"]) == 1


@pytest.fixture
def conclude(monkeypatch):
    """The end of a search, in the folder of a small one; returns what ``best.json`` holds."""

    def run(search: Search) -> dict:
        folder = Path(search.folders.clips).parent
        for name in ("CLIPS", "ENCODED", "STUDY"):
            monkeypatch.setattr(stage, name, getattr(search.folders, name.lower()))
        for name, place in (("BEST", "best.json"), ("TRIALS", "trials.csv"), ("FIGURES", "figures")):
            monkeypatch.setattr(stage, name, folder / place)
        stage._conclude(search.params, search.clips)
        return json.loads((folder / "best.json").read_text())

    return run


def test_a_search_of_which_no_trial_was_feasible_says_so(finished, search_in, conclude, capsys):
    assert "feasible" not in conclude(finished)
    search = search_in("limited", space=SPACE, constraints=[{"metric": "peak_memory_mib", "at_most": 0.001}])
    search.worker().work()
    assert conclude(search)["feasible"] == 0
    assert "no trial was feasible" in capsys.readouterr().out
    (study,) = search.runs()[""]
    assert "no trial was feasible" in study.data.tags["mlflow.note.content"]


def test_a_search_ends_well_with_runs_that_were_deleted(finished, conclude, capsys):
    before = contents(finished)
    for runs in finished.runs().values():
        mlflow.MlflowClient().delete_run(runs[0].info.run_id)
    conclude(finished)
    assert "2 trials that MLflow did not have were logged again" in capsys.readouterr().out
    after = contents(finished)
    assert after["0"]["tags"].pop("lora_tta.best_of")
    assert after == before
    (study,) = finished.runs()[""]
    assert study.data.tags["best.run"] == finished.runs()["0"][0].info.run_id
    assert study.info.status == "FINISHED"


def test_a_store_that_is_away_at_the_end_costs_no_result(finished, conclude, capsys):
    finished.change("tracking", uri="http://127.0.0.1:9")
    assert conclude(finished)["trial"] == 0
    assert "`lora-tta search` brings it up to date" in capsys.readouterr().out


def test_the_table_of_runs_has_a_view_of_what_was_searched(finished, conclude):
    conclude(finished)
    client = mlflow.MlflowClient()
    tags = client.get_experiment_by_name(finished.params.tracking.experiment).tags
    columns = json.loads(tags["mlflow.sharedViewState.lora-tta"])["selectedColumns"]
    assert {"params.`rank`", "params.`learning_rate`", "metrics.`psnr_gain`"} <= set(columns)
