"""A search with a tiny model that tests can run, disturb and look into."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import optuna
from mlflow.entities import Run
from optuna.trial import TrialState

from lora_tta.config import Params, SearchParams
from lora_tta.experiment.runner import ClipRunner
from lora_tta.records.clips import read_manifest
from lora_tta.records.search_folders import SearchFolders
from lora_tta.search.samplers import build_sampler, suggest_point
from lora_tta.search.study import CLIPS_ATTRIBUTE, FAILURE_ATTRIBUTE, MEANS_ATTRIBUTE, open_study
from lora_tta.search.worker import Worker


class Search:
    """A study on a few clips, in a folder of its own.

    Args:
        params: of the pipeline.
        folder: with ``raw``, ``clips``, ``encoded`` and MLflow's ``mlflow.db``.
    """

    def __init__(self, params: Params, folder: Path):
        values = params.model_dump()
        values["tracking"] |= {"uri": f"sqlite:///{folder}/mlflow.db", "artifact_root": folder / "artifacts"}
        values["data"]["root"], values["cache"]["path"] = folder / "raw", folder / "cache"
        self.params = Params.model_validate(values)
        self.clips = [replace(clip, split="search") for clip in read_manifest(folder / "clips")]
        self.folders = SearchFolders(folder / "clips", folder / "encoded", folder / "study")

    def change(self, section: str, **values: Any) -> None:
        """Change settings of a section."""
        changed = self.params.model_dump()
        changed[section] |= values
        self.params = Params.model_validate(changed)

    def worker(self) -> Worker:
        return Worker(self.params, self.folders, self.clips)

    def study(self) -> optuna.Study:
        runner = ClipRunner(self.params, self.folders.clips, self.folders.encoded)
        return open_study(self.folders.study, self.params, runner.study_identity(self.clips))

    def outcome(self) -> dict[int, tuple]:
        """State, point and value by trial number."""
        return {
            trial.number: (trial.state, tuple(trial.params.items()), trial.values)
            for trial in self.study().trials
        }

    def tracked(self) -> dict[str, list[tuple[str, float]]]:
        """Status and PSNR of the visible runs by the trial or study they belong to."""
        return {
            name: [(run.info.status, run.data.metrics.get("psnr")) for run in runs]
            for name, runs in self.runs().items()
        }

    def runs(self) -> dict[str, list[Run]]:
        """The visible MLflow runs by the number of their trial, that of the study under an empty name."""
        mlflow.set_tracking_uri(self.params.tracking.uri)
        found: dict[str, list[Run]] = {}
        for run in mlflow.search_runs(search_all_experiments=True, output_format="list"):
            found.setdefault(run.data.tags["lora_tta.key"].partition("/")[2], []).append(run)
        return found

    def entries(self, kind: str) -> dict[str, int]:
        """Cache entries of a kind with the inode that changes when one is made again."""
        return {entry.name: entry.stat().st_ino for entry in self.params.cache.path.glob(f"{kind}/*")}


def claim_point(study: optuna.Study, search: SearchParams) -> optuna.Trial:
    """A new trial with a point of the space, from a sampler of its own as the workers give it."""
    study.sampler = build_sampler(search, seed=len(study.trials))
    trial = study.ask()
    suggest_point(trial, search.dimensions)
    return trial


def finish(study: optuna.Study, search: SearchParams, values: Sequence[float], **tell: Any) -> None:
    """Trials with these values of PSNR, told as completed with them or as ``tell`` says."""
    for value in values:
        trial = claim_point(study, search)
        trial.set_user_attr(MEANS_ATTRIBUTE, {"psnr": value})
        trial.set_user_attr(CLIPS_ATTRIBUTE, 1)
        study.tell(trial, **(tell or {"values": value}))


def fail(study: optuna.Study, search: SearchParams, reason: str) -> None:
    """A failed trial."""
    trial = claim_point(study, search)
    trial.set_user_attr(FAILURE_ATTRIBUTE, reason)
    study.tell(trial, state=TrialState.FAIL)
