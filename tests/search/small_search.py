"""A search with a tiny model that tests can run, disturb and look into."""

import shutil
from pathlib import Path

import mlflow
import numpy as np
from prepared_clips import prepare_clips

from lora_tta.config import Params
from lora_tta.experiment.runner import ClipRunner
from lora_tta.records.search_folders import SearchFolders
from lora_tta.search.study import open_study
from lora_tta.search.worker import Worker


class Search:
    """A study on a few clips, in a folder of its own."""

    def __init__(self, params: Params, folder: Path, videos: list[np.ndarray], database: Path):
        values = params.model_dump()
        values["tracking"] |= {"uri": f"sqlite:///{folder}/mlflow.db", "artifact_root": folder / "artifacts"}
        self.params, self.clips = prepare_clips(Params.model_validate(values), folder, videos)
        shutil.copy(database, folder / "mlflow.db")
        self.folders = SearchFolders(folder / "clips", folder / "encoded", folder / "study")

    def worker(self) -> Worker:
        return Worker(self.params, self.folders, self.clips)

    def study(self):
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
        mlflow.set_tracking_uri(self.params.tracking.uri)
        found: dict[str, list[tuple[str, float]]] = {}
        for run in mlflow.search_runs(search_all_experiments=True, output_format="list"):
            outcome = (run.info.status, run.data.metrics.get("psnr"))
            found.setdefault(run.data.tags["lora_tta.key"].partition("/")[2], []).append(outcome)
        return found

    def entries(self, kind: str) -> dict[str, int]:
        """Cache entries of a kind with the inode that changes when one is made again."""
        return {entry.name: entry.stat().st_ino for entry in self.params.cache.path.glob(f"{kind}/*")}
