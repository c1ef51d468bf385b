"""Runs that are killed, done again, or lost to another worker, in a real SQLite store."""

import shutil
import signal
import subprocess

import pytest
from warm_processes import warm_python

from lora_tta.tracking.mlflow_runs import open_experiment
from lora_tta.tracking.runs import ended_keys, tracked_run
from lora_tta.tracking.store import Store

KILLED = """
import os, signal, sys
from pathlib import Path
from lora_tta.config import TrackingParams
from lora_tta.tracking.mlflow_runs import open_experiment
from lora_tta.tracking.runs import tracked_run
store = open_experiment(TrackingParams.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
with tracked_run(store, "run", "final", "final/1") as run:
    run.send(params={"rank": "4"})
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def store(params, empty_database) -> Store:
    shutil.copy(empty_database, params.tracking.uri.removeprefix("sqlite:///"))
    return open_experiment(params.tracking, params.cache.path)


def statuses(store: Store) -> list[str]:
    return [run.info.status for run in store.client.search_runs([store.experiment_id])]


def kill_a_run(params) -> None:
    settings = [params.tracking.model_dump_json(), str(params.cache.path)]
    done = subprocess.run([warm_python(), "-c", KILLED, *settings], check=False)
    assert done.returncode == -signal.SIGKILL


def test_the_run_of_a_killed_process_is_ended_by_the_next_one(store, params):
    kill_a_run(params)
    assert statuses(store) == ["RUNNING"]
    open_experiment(params.tracking, params.cache.path)
    (run,) = store.client.search_runs([store.experiment_id])
    assert run.info.status == "KILLED"
    assert run.data.tags["mlflow.note.content"] == "Killed before its end"
    assert not list(store.unsent.iterdir())


def test_the_run_of_a_killed_process_is_replaced_by_one_of_its_key(store, params):
    kill_a_run(params)
    with tracked_run(store, "run", "final", "final/1") as run:
        assert statuses(store) == ["RUNNING"]
    (left,) = store.client.search_runs([store.experiment_id])
    assert (left.info.run_id, left.info.status) == (run.run_id, "FINISHED")


def test_a_living_process_keeps_its_run(store, params):
    with tracked_run(store, "run", "final", "final/1"):
        open_experiment(params.tracking, params.cache.path)
        assert statuses(store) == ["RUNNING"]
    assert statuses(store) == ["FINISHED"]


def test_work_that_is_done_again_has_one_run_and_the_old_one_until_then(store):
    with tracked_run(store, "run", "final", "final/1") as first:
        pass
    with pytest.raises(OSError, match="full"), tracked_run(store, "run", "final", "final/1"):
        raise OSError("full")
    assert sorted(statuses(store)) == ["FAILED", "FINISHED"]
    with tracked_run(store, "run", "final", "final/1") as second:
        assert sorted(statuses(store)) == ["FINISHED", "RUNNING"]
    (left,) = store.client.search_runs([store.experiment_id])
    assert left.info.run_id == second.run_id != first.run_id


def test_other_work_has_a_run_of_its_own(store):
    for key in ("final/1", "final/2"):
        with tracked_run(store, "run", "final", key):
            pass
    assert statuses(store) == ["FINISHED"] * 2


def test_an_interrupted_run_is_killed_says_so_and_is_replaced(store):
    with pytest.raises(KeyboardInterrupt), tracked_run(store, "run", "final", "final/1"):
        raise KeyboardInterrupt
    (run,) = store.client.search_runs([store.experiment_id])
    assert (run.info.status, run.data.tags["mlflow.note.content"]) == ("KILLED", "Interrupted before its end")
    assert not ended_keys(store, "final/")
    with tracked_run(store, "run", "final", "final/1"):
        pass
    assert statuses(store) == ["FINISHED"]


def test_a_worker_that_lost_its_trial_logs_nothing_more(store):
    owns = True
    with tracked_run(store, "trial", "trial", "study/0", is_owned=lambda: owns) as lost:
        lost.send(params={"rank": "4"})
        owns = False
        with tracked_run(store, "trial", "trial", "study/0") as taken_over:
            lost.send(params={"alpha": "8"})
            taken_over.send(params={"rank": "4"})
    (run,) = store.client.search_runs([store.experiment_id])
    assert (run.info.run_id, run.info.status) == (taken_over.run_id, "FINISHED")
    assert run.data.params == {"rank": "4"}
    assert not list(store.unsent.iterdir())


def test_a_run_lasts_as_long_as_its_work(store):
    with tracked_run(store, "run", "final", "final/1", started=1_700_000_000_000) as run:
        pass
    info = store.client.get_run(run.run_id).info
    assert info.start_time == 1_700_000_000_000
    assert info.end_time > 1_700_000_000_000
