"""Workers on real studies, with real processes and a real MLflow store, on a tiny model."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
from optuna.trial import TrialState
from prepared_clips import prepare_clips

from lora_tta.config import Params
from lora_tta.experiment.runner import ClipRunner
from lora_tta.search.launch import run_local_workers
from lora_tta.search.study import open_study
from lora_tta.search.worker import SearchFolders, Worker, run_worker


class Search:
    """A study on a few clips, in a folder of its own."""

    def __init__(self, params: Params, folder: Path, videos: list[np.ndarray]):
        values = params.model_dump()
        values["tracking"] |= {"uri": f"sqlite:///{folder}/mlflow.db", "artifact_root": folder / "artifacts"}
        self.params, self.clips = prepare_clips(Params.model_validate(values), folder, videos)
        self.folders = SearchFolders(folder / "clips", folder / "encoded", folder / "study")

    def worker(self) -> Worker:
        return Worker(self.params, self.folders, self.clips)

    def study(self):
        runner = ClipRunner(self.params, self.folders.clips, self.folders.encoded)
        return open_study(self.folders.study, self.params, runner.setting(self.clips))

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


@pytest.fixture
def search_in(with_search, tmp_path, moving_frames):
    def build(name: str, num_clips: int = 2, workers: dict | None = None, **changes) -> Search:
        params = with_search(
            **{
                "sampler": "grid",
                "space": {"rank": [2], "learning_rate": [1e-3, 1e-2], "num_steps": [1, 2]},
                **changes,
            }
        )
        values = params.model_dump()
        values["workers"] |= {"heartbeat_seconds": 0.3, **(workers or {})}
        values["model"]["num_threads"] = 1
        videos = [np.roll(moving_frames, 7 * number, axis=1) for number in range(num_clips)]
        return Search(Params.model_validate(values), tmp_path / name, videos)

    return build


def test_a_worker_finishes_the_study_and_logs_every_trial_once(search_in):
    search = search_in("study")
    search.worker().work()
    outcome = search.outcome()
    assert [state for state, _, _ in outcome.values()] == [TrialState.COMPLETE] * 4
    tracked = search.tracked()
    assert set(tracked) == {"", "0", "1", "2", "3"}
    for number, (_, _, values) in outcome.items():
        assert tracked[str(number)] == [("FINISHED", pytest.approx(values[0]))]


def test_another_worker_finds_nothing_to_do(search_in):
    search = search_in("study")
    search.worker().work()
    before = search.outcome(), search.entries("result")
    search.worker().work()
    assert (search.outcome(), search.entries("result")) == before


def test_two_processes_give_what_one_gives(search_in):
    alone, together = search_in("alone"), search_in("together")
    alone.worker().work()
    run_local_workers(together.params, together.folders, together.clips, processes=2)
    assert together.outcome() == alone.outcome()
    assert together.entries("result").keys() == alone.entries("result").keys()


def test_an_idle_worker_takes_clips_of_a_running_trial_from_its_end(search_in):
    search = search_in("study", num_clips=3)
    owner, helper = search.worker(), search.worker()
    with owner._heartbeat:
        owner._claim()
        assert helper._help()
    assert len(search.entries("result")) == 1
    assert search.worker().runner.try_run(search.clips[0], None)
    assert not helper.runner.try_run(search.clips[-1], helper_settings(search))


def helper_settings(search: Search):
    from lora_tta.search.study import settings_of

    return settings_of(search.study().trials[0])


def test_a_living_workers_trial_is_left_alone_and_a_dead_ones_is_taken_over(search_in):
    search = search_in("study")
    first, second = search.worker(), search.worker()
    with second._heartbeat:
        with first._heartbeat:
            claimed = first._claim()
            assert second._claim().number == claimed.number + 1
        taken_over = second._claim()
    assert taken_over.number == claimed.number
    assert taken_over.params == claimed.params


def test_a_pruner_stops_a_hopeless_trial(search_in):
    search = search_in(
        "study",
        num_clips=4,
        pruner="median",
        space={
            "rank": [2],
            "learning_rate": [1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0],
            "num_steps": [2],
        },
    )
    search.worker().work()
    states = {trial.state for trial in search.study().trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}
    pruned = next(trial for trial in search.study().trials if trial.state == TrialState.PRUNED)
    assert pruned.user_attrs["clips"] < 4


def test_several_objectives_and_a_constraint(search_in):
    search = search_in(
        "study",
        objectives=[
            {"metric": "psnr", "direction": "maximize"},
            {"metric": "adapt_seconds_per_clip", "direction": "minimize"},
        ],
        constraints=[{"metric": "peak_memory_mib", "at_most": 1.0}],
    )
    search.worker().work()
    trials = search.study().trials
    assert all(len(trial.values) == 2 for trial in trials)
    assert all(trial.constraints["peak_memory_mib"] > 0 for trial in trials)


@pytest.mark.slow
def test_nothing_is_lost_when_workers_are_killed_at_random_moments(search_in):
    size = {
        "num_clips": 3,
        "space": {"rank": [2, 4], "learning_rate": [1e-3, 3e-3, 1e-2, 3e-2], "num_steps": [1, 2, 3]},
        "n_trials": 24,
    }
    undisturbed, disturbed = search_in("undisturbed", **size), search_in("disturbed", **size)
    undisturbed.worker().work()

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run_worker.__module__])
    arguments = (disturbed.params, disturbed.folders, disturbed.clips)
    moments, kills, seen = random.Random(0), 0, {}

    def start():
        process = context.Process(target=run_worker, args=arguments)
        process.start()
        return process

    workers = [start(), start()]
    while any(worker.is_alive() for worker in workers):
        time.sleep(moments.uniform(0.1, 2.5))
        for kind in ("result", "adapter", "continuation"):
            seen |= disturbed.entries(kind)
        victim = moments.randrange(2)
        if workers[victim].is_alive() and kills < 25:
            os.kill(workers[victim].pid, signal.SIGKILL)
            workers[victim].join()
            workers[victim] = start()
            kills += 1
    assert kills >= 20
    assert disturbed.outcome() == undisturbed.outcome()
    assert disturbed.tracked() == undisturbed.tracked()
    kept = {
        name: inode
        for kind in ("result", "adapter", "continuation")
        for name, inode in disturbed.entries(kind).items()
    }
    assert seen.items() <= kept.items(), "a finished part was made again"
    assert not list(disturbed.params.cache.path.glob("*/*/*.partial"))
