"""Workers as jobs of a real SLURM cluster, and on a real PostgreSQL server."""

import os
import signal
import subprocess
import threading
import time

import pytest
from services import postgresql_server, slurm_cluster

from lora_tta.errors import UserError
from lora_tta.search import preloaded
from lora_tta.search.launch import _work_in_process, run_local_workers, run_slurm_workers, run_worker_here
from lora_tta.search.study import JOURNAL

SMALL_JOBS = {
    "slurm": {
        "partition": None,
        "account": None,
        "time_minutes": 10,
        "gpus_per_worker": 0,
        "cpus_per_worker": 1,
        "memory_gb": None,
        "max_requeues": 3,
    }
}


@pytest.mark.slow(40)
@pytest.mark.usefixtures("forkserver_with_model")
def test_workers_share_a_study_in_postgresql(undisturbed, search_in, tmp_path):
    alone = undisturbed()
    with postgresql_server(tmp_path / "postgresql") as url:
        search = search_in("together", storage=url)
        run_local_workers(search.params, search.folders, search.clips, processes=2)
        assert search.outcome() == alone.outcome()
        assert set(search.tracked()) == {"", "0", "1", "2", "3"}
    assert not (search.params.cache.path / JOURNAL).exists()


@pytest.mark.slow(60)
def test_slurm_jobs_on_two_nodes_finish_the_study_also_after_a_preemption(undisturbed, search_in, tmp_path):
    alone = undisturbed(num_clips=3)
    with slurm_cluster(tmp_path / "slurm", num_nodes=2):
        search = search_in("cluster", num_clips=3, workers=SMALL_JOBS)
        arguments = (search.params, search.folders, search.clips, 2, tmp_path / "logs")
        launcher = threading.Thread(target=run_slurm_workers, args=arguments, daemon=True)
        launcher.start()
        deadline = time.monotonic() + 360
        seen, preempted = set(), False
        while launcher.is_alive() and time.monotonic() < deadline:
            listing = ["squeue", "-h", "-t", "running", "-o", "%i %N"]
            running = dict(line.split() for line in subprocess.check_output(listing, text=True).splitlines())
            seen.update(running.values())
            if not preempted and running and search.entries("result"):
                # What SLURM sends to a job that has to make room.
                subprocess.run(["scancel", "--signal=USR2", min(running)], check=True)
                preempted = True
            time.sleep(0.2)
        assert not launcher.is_alive(), "the jobs do not end"
        assert preempted
        assert seen == {"node0", "node1"}
    assert search.outcome() == alone.outcome()
    logs = "".join(path.read_text() for path in (tmp_path / "logs").glob("*.out"))
    assert "checkpoint" in logs.lower() or "requeue" in logs.lower()


def test_a_worker_here_works_in_this_process(params, monkeypatch):
    given = []
    monkeypatch.setattr(preloaded, "run_worker", lambda *arguments: given.append(arguments))
    run_worker_here(params, "folders", ["clip"])
    assert given == [(params, "folders", ["clip"], True)]


def test_local_workers_take_the_gpus_of_their_numbers_and_the_first_shows_progress(params, monkeypatch):
    given = []

    def run_worker(params, folders, clips, shows_progress):
        given.append((os.environ["CUDA_VISIBLE_DEVICES"], shows_progress))

    monkeypatch.setattr(preloaded, "run_worker", run_worker)
    for index in (0, 1):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
        _work_in_process(None, params, "folders", ["clip"], index)
    assert given == [("4", True), ("5", False)]


def test_jobs_that_no_node_can_start_are_cancelled_in_the_end(search_in, tmp_path, programs):
    programs(
        sbatch="echo Submitted batch job 17",
        squeue="echo '17|launch failed requeued held'",
        scontrol="exit 0",
        scancel=f'echo "$@" >> {tmp_path}/cancelled',
        srun="exit 0",
    )
    jobs = {"slurm": SMALL_JOBS["slurm"] | {"max_requeues": 0}}
    search = search_in("study", workers=jobs)
    with pytest.raises(UserError, match="job 17 could not be started on its node 1 times"):
        run_slurm_workers(search.params, search.folders, search.clips, 1, tmp_path / "logs")
    assert "17" in (tmp_path / "cancelled").read_text()


def test_ctrl_c_cancels_the_jobs(search_in, tmp_path, programs):
    programs(
        sbatch="echo Submitted batch job 17",
        squeue="echo 17 main job",
        scancel=f'echo "$@" >> {tmp_path}/cancelled',
        srun="exit 0",
    )
    search = search_in("study")
    timer = threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_slurm_workers(search.params, search.folders, search.clips, 1, tmp_path / "logs")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "cancelled").read_text().split() == ["17"]


def test_without_slurm_the_message_says_so(search_in, tmp_path, monkeypatch):
    search = search_in("study")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="SLURM"):
        run_slurm_workers(search.params, search.folders, search.clips, 1, tmp_path / "logs")
