"""Starting the workers of a study: in this process, in several on this machine, or on a SLURM cluster."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import submitit
from submitit.helpers import Checkpointable

from lora_tta.config import Params
from lora_tta.ends import follow_parent, without_signals
from lora_tta.errors import UserError, reason_of
from lora_tta.experiment.processes import call_in_process, forkserver, take_gpu
from lora_tta.records.clips import Clip
from lora_tta.records.search_folders import SearchFolders

WORKER_MODULE = "lora_tta.search.preloaded"
POLL_SECONDS = 2


def run_local_workers(params: Params, folders: SearchFolders, clips: Sequence[Clip], processes: int) -> None:
    """Run ``processes`` workers on this machine until the study is finished.

    A worker that dies is not replaced; the others take its work over. All end with this process.

    Raises:
        UserError: the settings or the files are wrong, as the first worker that notices says; the others are
            ended. Or all of them died.
    """
    context = forkserver(WORKER_MODULE)
    errors = context.SimpleQueue()
    workers = [
        context.Process(target=_work_in_process, args=(errors, params, folders, clips, index))
        for index in range(processes)
    ]
    for worker in workers:
        worker.start()
    running = list(workers)
    try:
        while running and errors.empty():
            wait([worker.sentinel for worker in running])
            running = [worker for worker in running if worker.is_alive()]
    finally:
        for worker in running:
            worker.terminate()
        for worker in workers:
            worker.join()
    if not errors.empty():
        raise UserError(errors.get())
    if all(worker.exitcode for worker in workers):
        codes = ", ".join(str(worker.exitcode) for worker in workers)
        raise UserError(
            f"all {processes} workers died (exit codes {codes}), as when memory runs out: lower "
            "workers.processes and run again; nothing that was finished is lost"
        )


def _work_in_process(
    errors: "SimpleQueue[str]", params: Params, folders: SearchFolders, clips: Sequence[Clip], index: int
) -> None:
    """Work, and hand an error on as one line."""
    follow_parent()
    try:
        take_gpu(index)
        run_worker_here(params, folders, clips, shows_progress=index == 0)
    except Exception as error:
        errors.put(reason_of(error))
        sys.exit(1)


def run_worker_here(
    params: Params, folders: SearchFolders, clips: Sequence[Clip], shows_progress: bool = True
) -> None:
    """Run one worker in this process.

    Raises:
        UserError: the settings or the files are wrong.
    """
    # Imported by workers alone: it takes seconds that the process which waits for them does without.
    from lora_tta.search.preloaded import run_worker

    run_worker(params, folders, clips, shows_progress)


class ClusterWorker(Checkpointable):
    """A worker as a cluster's job; after a preemption or a time-out submitit starts it again."""

    def __call__(self, params: Params, folders: SearchFolders, clips: Sequence[Clip]) -> str | None:
        """Work until the study is finished; returns the reason in one line if that fails.

        The work has a process of its own. What submitit raises at a preemption could otherwise be raised
        within any library, which may catch it, and is left half imported if it was being imported.
        """
        with without_signals(signal.SIGUSR2, signal.SIGTERM):
            # SLURM sends them to all processes of a job's step, and submitit's decides what they mean.
            forkserver(WORKER_MODULE)
        try:
            call_in_process(WORKER_MODULE, run_worker_here, params, folders, clips)
        except Exception as error:
            return reason_of(error)
        return None


def run_slurm_workers(
    params: Params, folders: SearchFolders, clips: Sequence[Clip], count: int, logs: Path
) -> None:
    """Submit ``count`` workers as SLURM jobs and wait until all have left the queue; preempted ones return.

    Args:
        logs: folder for submitit's job files and the workers' output, on a disk the nodes share.

    Raises:
        UserError: SLURM is not there or refuses the jobs, or a worker failed.
        KeyboardInterrupt: the user interrupted it; the jobs are cancelled.
    """
    slurm = params.workers.slurm
    try:
        executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=slurm.max_requeues)
        executor.update_parameters(
            job_name=params.search.study_name,
            time=slurm.time_minutes,
            cpus_per_task=slurm.cpus_per_worker,
            **{
                name: value
                for name, value in {
                    "partition": slurm.partition,
                    "account": slurm.account,
                    "gres": f"gpu:{slurm.gpus_per_worker}" if slurm.gpus_per_worker else None,
                    "mem": f"{slurm.memory_gb}GB" if slurm.memory_gb else None,
                }.items()
                if value is not None
            },
        )
        jobs = [executor.submit(ClusterWorker(), params, folders, clips) for _ in range(count)]
    except (RuntimeError, submitit.core.utils.FailedJobError) as error:
        raise UserError(f"SLURM took no job ({' '.join(str(error).split())}): see workers.slurm") from None
    print(f"{count} workers submitted as jobs {', '.join(job.job_id for job in jobs)}; output in {logs}")
    releases: Counter[str] = Counter()
    try:
        while _in_queue([job.job_id for job in jobs], releases):
            if stuck := [job_id for job_id, count in releases.items() if count > slurm.max_requeues]:
                raise UserError(
                    f"job {stuck[0]} could not be started on its node {releases[stuck[0]]} times: see "
                    "workers.slurm and the log of the node's slurmd; nothing that was finished is lost"
                )
            time.sleep(POLL_SECONDS)
    except (KeyboardInterrupt, UserError):
        for job in jobs:
            job.cancel()
        raise
    reasons = [job.result() for job in jobs if job.paths.result_pickle.exists()]
    if failures := [reason for reason in reasons if reason]:
        raise UserError(failures[0])


def _in_queue(job_ids: Sequence[str], releases: Counter[str]) -> bool:
    """Whether jobs are left. Jobs that SLURM holds since it could not start them go on, and are counted."""
    # Not submitit's own waiting, which asks the accounting database: not every cluster has one.
    command = ["squeue", "--noheader", "--format=%i|%r", f"--jobs={','.join(job_ids)}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        # SLURM forgets jobs some minutes after their end. Any other failure tells nothing about them.
        return "Invalid job id" not in listed.stderr
    for line in listed.stdout.splitlines():
        job_id, _, reason = line.partition("|")
        if "launch failed requeued held" in reason:
            # It would be held for good: nobody would release it.
            releases[job_id] += 1
            print(f"job {job_id} could not be started on its node; it is queued again", file=sys.stderr)
            subprocess.run(["scontrol", "release", job_id], capture_output=True, check=False)
    return bool(listed.stdout.strip())
