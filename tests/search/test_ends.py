"""Searches that are ended from outside: no worker outlives its parent, and one line tells of it."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

from lora_tta.search.launch import _in_queue

SEARCH = """
import pickle, sys
from lora_tta.errors import report_user_errors
from lora_tta.search.launch import run_local_workers
if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        params, folders, clips = pickle.load(file)
    sys.exit(report_user_errors(lambda: run_local_workers(params, folders, clips, processes=2)))
"""
ENDS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
LONG = {"rank": [2], "learning_rate": [1e-3 + 1e-5 * number for number in range(100)], "num_steps": [2]}


@pytest.fixture
def long_search(search_in, tmp_path):
    """A search of two workers in processes of its own, once both of them work; and the workers' ids."""
    search = search_in("study", space=LONG, n_trials=100)
    (tmp_path / "search.py").write_text(SEARCH)
    (tmp_path / "search.pickle").write_bytes(pickle.dumps((search.params, search.folders, search.clips)))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "search.py"), str(tmp_path / "search.pickle")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever starts the tests in the background has them ignore some of these.
        preexec_fn=lambda: [signal.signal(sent, signal.SIG_DFL) for sent in ENDS],
    )
    beats = search.params.cache.path / "workers"
    while len(found := list(beats.glob("*/*"))) < 2 or not search.entries("result"):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    workers = [int(path.name.split("-")[-2]) for path in found]
    yield process, workers
    for pid in (process.pid, *workers):
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def seconds_until_they_end(pids: list[int]) -> float:
    began = time.monotonic()
    while any(map(is_alive, pids)):
        assert time.monotonic() - began < 30
        time.sleep(0.1)
    return time.monotonic() - began


@pytest.mark.slow(25)
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGHUP])
def test_workers_end_with_their_parent(long_search, sent):
    process, workers = long_search
    process.send_signal(sent)
    process.wait(10)
    assert seconds_until_they_end(workers) < 10


@pytest.mark.slow(25)
def test_ctrl_c_ends_all_within_seconds_and_is_one_line(long_search):
    process, workers = long_search
    os.killpg(process.pid, signal.SIGINT)
    said = process.stderr.read().splitlines()
    assert process.wait(10) == 2
    assert seconds_until_they_end(workers) < 10
    # The line of the progress may stand before it.
    line = "error: interrupted: run again to go on; nothing that was finished is lost"
    assert [each.endswith(line) for each in said if "error" in each] == [True]
    assert not [each for each in said if "Traceback" in each]


@pytest.mark.parametrize(
    ("script", "waits"),
    [
        ("echo '17 main job'", True),
        ("exit 0", False),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", False),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", True),
    ],
)
def test_a_queue_that_cannot_be_asked_is_not_an_empty_one(programs, script, waits):
    programs(squeue=script)
    assert _in_queue(["17"], Counter()) == waits


def test_a_job_that_slurm_holds_because_its_node_could_not_start_it_is_released(programs, tmp_path, capsys):
    programs(
        squeue="echo '17|launch failed requeued held'; echo '18|JobHeldUser'",
        scontrol=f"echo $@ >> {tmp_path}/asked",
    )
    releases = Counter()
    assert _in_queue(["17", "18"], releases)
    assert releases == {"17": 1}
    assert (tmp_path / "asked").read_text() == "release 17\n"
    assert "job 17 could not be started" in capsys.readouterr().err
