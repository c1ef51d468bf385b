"""Experiments of real DVC on the stage ``search``, in this repository's setting, on a tiny model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from commands import run_in
from prepared_clips import prepare_clips
from ruamel.yaml import YAML

from lora_tta.config import Params
from lora_tta.records.clips import write_manifest

REPOSITORY = Path(__file__).parents[2]
MODEL = Path("models/tiny")


class Repository:
    """The stage ``search`` of ``dvc.yaml`` with its inputs, all in Git."""

    def __init__(self, folder: Path, params: Params, videos: list[np.ndarray], database: Path):
        self.folder = folder
        values = params.model_dump(mode="json")
        shutil.copytree(params.model.path, folder / MODEL)
        values["model"]["path"] = str(MODEL)
        # The stores of params.yaml as it comes, which are relative.
        ours = YAML(typ="safe").load(REPOSITORY / "params.yaml")
        values |= {"tracking": ours["tracking"], "cache": ours["cache"], "workers": ours["workers"]}
        values["workers"]["processes"] = 1
        values["search"]["space"] = {"rank": [2], "learning_rate": [1e-3, 1e-2, 1e-1], "num_steps": [2]}
        _, clips = prepare_clips(params, folder / "outputs", videos)
        write_manifest(folder / "outputs" / "clips", [replace(clip, split="search") for clip in clips])
        (folder / "outputs/encoded/distance.json").write_text('{"lpips": "untrained"}')
        for name in ("raw", "cache"):
            shutil.rmtree(folder / "outputs" / name)
        pipeline = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")
        YAML().dump({"stages": {"search": pipeline["stages"]["search"]}}, folder / "dvc.yaml")
        YAML().dump(values, folder / "params.yaml")
        shutil.copytree(REPOSITORY / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        for name in (
            ".gitignore",
            ".dvcignore",
            "requirements.lock",
            "mlruns/.gitignore",
            "outputs/search/.gitignore",
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
        shutil.copy(database, folder / "mlruns" / "mlflow.db")
        self.run("git", "init", "--quiet")
        self.run("dvc", "init", "--quiet")
        self.commit()

    def run(self, *command: str) -> str:
        return run_in(self.folder, *command)

    def commit(self) -> None:
        self.run("git", "add", ".")
        self.run("git", "commit", "--quiet", "-m", "now")

    @property
    def trials(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "outputs/search/trials.csv")

    @property
    def results(self) -> int:
        return len(list((self.folder / ".cache/lora-tta/result").glob("*/key.json")))

    def tracked(self) -> list[str]:
        """The trials in MLflow, as ``<study>/<number>``."""
        mlflow.set_tracking_uri(f"sqlite:///{self.folder}/mlruns/mlflow.db")
        runs = mlflow.search_runs(search_all_experiments=True)
        return sorted(runs.loc[runs["tags.lora_tta.kind"] == "trial", "tags.lora_tta.key"])


@pytest.mark.slow(60)
def test_experiments_change_the_space_and_continue_the_study_in_the_workspace_and_queued(
    tmp_path, params, moving_frames, empty_database
):
    repository = Repository(tmp_path, params, [moving_frames], empty_database)
    repository.run("dvc", "exp", "run", "-S", "search.space.rank=[4]", "-S", "search.n_trials=1")
    first = repository.trials
    assert list(first["rank"]) == [4]
    assert repository.results == 2  # with the baseline's
    study = json.loads((tmp_path / "outputs/search/best.json").read_text())["study"]
    repository.commit()

    repository.run("dvc", "exp", "run", "--queue", "--name", "more", "-S", "search.n_trials=2")
    repository.run("dvc", "exp", "run", "--run-all")
    # It ran in a copy, with the study of the commit, and with the cache and the MLflow store of this folder.
    assert repository.trials.equals(first)
    assert repository.results == 3
    assert repository.tracked() == [f"{study}/0", f"{study}/1"]

    repository.run("dvc", "exp", "apply", "more")
    assert repository.trials.head(1).equals(first)
    assert len(repository.trials) == 2
