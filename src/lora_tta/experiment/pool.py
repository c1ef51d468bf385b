"""Clips spread over the processes of one machine.

What takes long to import, torch above all, is imported by the processes that run clips, at once and alone.
"""

import multiprocessing
import multiprocessing.forkserver
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lora_tta.config import Params
from lora_tta.records.clips import Clip
from lora_tta.records.point import LoraSettings

if TYPE_CHECKING:
    from lora_tta.experiment.clip_run import ClipRun
    from lora_tta.experiment.runner import ClipRunner

RUNNER_MODULE = "lora_tta.experiment.runner"

RunClips = Callable[[Sequence[Clip], LoraSettings | None, str], list["ClipRun"]]


def forkserver(preload: str) -> multiprocessing.context.ForkServerContext:
    """Processes forked from a server that has imported ``preload``, so that torch is imported once for all.

    They are forked before CUDA or a thread is up, which plain forks of this process could not rely on.
    The server imports while the caller goes on, until the first process is started.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    multiprocessing.forkserver.ensure_running()
    return context


def call_in_process(preload: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``function(*arguments)``, called in a process of :func:`forkserver`."""
    with ProcessPoolExecutor(1, mp_context=forkserver(preload)) as executor:
        return executor.submit(function, *arguments).result()


@contextmanager
def clip_workers(params: Params, clips_folder: Path, encoded: Path) -> Iterator[RunClips]:
    """``workers.processes`` processes that run clips, or this one if that is 1.

    Yields:
        ``run(clips, settings, description)``, which runs every clip with one setting, see
        :meth:`ClipRunner.run`, and returns the runs in the order of ``clips``.
    """
    run = partial(_run, params, clips_folder, encoded)
    processes = params.workers.processes
    if processes == 1:
        yield lambda clips, settings, description: [
            run(clip, settings) for clip in tqdm(clips, description, unit="clip")
        ]
        return
    with ProcessPoolExecutor(processes, mp_context=forkserver(RUNNER_MODULE)) as executor:
        yield partial(_run_in, executor, run)


def _run_in(
    executor: Executor,
    run: Callable[[Clip, LoraSettings | None], "ClipRun"],
    clips: Sequence[Clip],
    settings: LoraSettings | None,
    description: str,
) -> list["ClipRun"]:
    futures: list[Future[ClipRun]] = [executor.submit(run, clip, settings) for clip in clips]
    for future in tqdm(as_completed(futures), description, total=len(futures), unit="clip"):
        future.result()
    return [future.result() for future in futures]


def _run(
    params: Params, clips_folder: Path, encoded: Path, clip: Clip, settings: LoraSettings | None
) -> "ClipRun":
    return _runner(params.model_dump_json(), clips_folder, encoded).run(clip, settings)


@cache
def _runner(params: str, clips_folder: Path, encoded: Path) -> "ClipRunner":
    """The runner of this process, which keeps the model between clips."""
    from lora_tta.experiment.runner import ClipRunner

    parsed = Params.model_validate_json(params)
    identity = multiprocessing.current_process()._identity
    index = identity[-1] - 1 if identity else 0
    return ClipRunner(parsed, clips_folder, encoded, parsed.search.space.num_steps, device_index=index)
