"""A long search in one process: memory and open files stay flat, and a trial takes as long at the end.

Prints a table with a row for each tenth of the study. Run from the repository root, after ``dvc pull``:

    python benchmarks/soak.py --trials 500
    python benchmarks/soak.py --trials 10        # smoke test of this script
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import optuna
import psutil
from optuna.trial import Trial
from small_study import prepare_study

from lora_tta.records.clips import read_manifest
from lora_tta.records.search_folders import SearchFolders
from lora_tta.search.worker import Worker
from lora_tta.stages.paths import CLIPS, ENCODED, STUDY
from lora_tta.stages.stage_params import load_measuring_params
from lora_tta.tracking.store import Store


class MeasuredWorker(Worker):
    """Prints what trials took, and what the process holds after them."""

    def work(self) -> None:
        """As the worker's."""
        self._rows: list[tuple[float, float]] = []
        self._process, self._claiming = psutil.Process(), 0.0
        print(f"{'trials':<12}{'to choose, s':>14}{'to run, s':>12}{'RSS, MiB':>11}{'open files':>12}")
        super().work()

    def _claim(self) -> Trial | None:
        began = time.perf_counter()
        trial = super()._claim()
        self._claiming = time.perf_counter() - began
        return trial

    def _run(self, trial: Trial, store: Store) -> None:
        began = time.perf_counter()
        super()._run(trial, store)
        seconds = time.perf_counter() - began
        self._rows.append((self._claiming, seconds))
        count, size = len(self._rows), max(1, self.search.num_trials // 10)
        if count % size:
            return
        claims, runs = map(statistics.median, zip(*self._rows[-size:], strict=True))
        memory, files = self._process.memory_info().rss / 2**20, self._process.num_fds()
        row = f"{f'{count - size}-{count - 1}':<12}{claims:>14.3f}{runs:>12.2f}{memory:>11.0f}{files:>12}"
        print(row, flush=True)


def main() -> None:
    """Run the study in a temporary folder, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--sampler", default="tpe")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "soak"
        # A range, as people search one: with a thousand choices TPE itself takes longer with every trial.
        rates = {"low": 1e-4, "high": 1e-2, "log": True}
        space = {"rank": [2], "learning_rate": rates, "num_steps": [1]}
        prepare_study(folder, arguments.trials, processes=1, sampler=arguments.sampler, space=space)
        os.chdir(folder)
        folders = SearchFolders(CLIPS.absolute(), ENCODED.absolute(), STUDY.absolute())
        worker = MeasuredWorker(load_measuring_params(), folders, read_manifest(CLIPS, "search"), False)
        worker.work()
        os.chdir("/")


if __name__ == "__main__":
    main()
