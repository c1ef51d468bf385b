"""Clips spread over the processes of one machine.

The processes that run clips import torch and other large libraries, at once and alone; a process that waits
for them does not.
"""

import multiprocessing
import multiprocessing.forkserver
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lora_tta.config import Params
from lora_tta.errors import UserError, reason_of
from lora_tta.records.clips import Clip
from lora_tta.records.point import Point

if TYPE_CHECKING:
    from lora_tta.experiment.preloaded import ClipRunner
    from lora_tta.records.outcome import ClipFailure, ClipOutcome

RUNNER_MODULE = "lora_tta.experiment.preloaded"
# A stage ends with an error when more than this share of its clips has failed.
MAX_FAILED_SHARE = 0.1

_leases = ExitStack()
RunClips = Callable[[Sequence[Clip], Point | None, str], "list[ClipOutcome | ClipFailure]"]


def forkserver(preload: str) -> ForkServerContext:
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

    The files of the outcomes stay in the cache until the block ends.

    Yields:
        ``run(clips, point, description)``, which runs every clip at one point, see :meth:`ClipRunner.run`,
        and returns outcomes and failures in the order of ``clips``. It raises a :class:`UserError` as soon
        as more than a tenth of the clips has failed, and leaves out those that have not begun.
    """
    run = partial(_run, params, clips_folder, encoded)
    processes = params.workers.processes
    if processes == 1:
        try:
            yield partial(_run_here, run)
        finally:
            _release_leases()
        return
    with ProcessPoolExecutor(processes, mp_context=forkserver(RUNNER_MODULE)) as executor:
        yield partial(_run_in, executor, run)


def _run_here(
    run: Callable[[Clip, Point | None], "ClipOutcome | ClipFailure"],
    clips: Sequence[Clip],
    point: Point | None,
    description: str,
) -> "list[ClipOutcome | ClipFailure]":
    outcomes: list[ClipOutcome | ClipFailure] = []
    for clip in tqdm(clips, description, unit="clip"):
        outcomes.append(run(clip, point))
        _check_failures(outcomes, len(clips), description)
    return outcomes


def _run_in(
    executor: Executor,
    run: Callable[[Clip, Point | None], "ClipOutcome | ClipFailure"],
    clips: Sequence[Clip],
    point: Point | None,
    description: str,
) -> "list[ClipOutcome | ClipFailure]":
    futures: list[Future[ClipOutcome | ClipFailure]] = [executor.submit(run, clip, point) for clip in clips]
    done: list[ClipOutcome | ClipFailure] = []
    try:
        for future in tqdm(as_completed(futures), description, total=len(futures), unit="clip"):
            done.append(future.result())
            _check_failures(done, len(clips), description)
    except BrokenProcessPool:
        raise UserError(
            f"{description}: a process died, as when memory runs out: lower workers.processes and run again; "
            "finished clips are kept"
        ) from None
    finally:
        for future in futures:
            future.cancel()
    return [future.result() for future in futures]


def _check_failures(
    outcomes: "Sequence[ClipOutcome | ClipFailure]", num_clips: int, description: str
) -> None:
    from lora_tta.records.outcome import split_failures

    _, failures = split_failures(outcomes)
    if len(failures) > MAX_FAILED_SHARE * num_clips:
        first = failures[0]
        raise UserError(
            f"{description}: {len(failures)} of {num_clips} clips failed, the first is {first.clip.clip_id} "
            f"({first.reason}): see the settings of adaptation and generation; finished clips are kept"
        )


def _run(
    params: Params, clips_folder: Path, encoded: Path, clip: Clip, point: Point | None
) -> "ClipOutcome | ClipFailure":
    from lora_tta.records.outcome import ClipFailure

    try:
        return _runner(params.model_dump_json(), clips_folder, encoded).run(clip, point)
    except UserError:
        raise
    except Exception as error:
        return ClipFailure(clip, reason_of(error))


@cache
def _runner(params: str, clips_folder: Path, encoded: Path) -> "ClipRunner":
    """The runner of this process, which keeps the model between clips and leases all that it works on."""
    from lora_tta.experiment.preloaded import ClipRunner

    parsed = Params.model_validate_json(params)
    identity = multiprocessing.current_process()._identity  # type: ignore[attr-defined]
    index = identity[-1] - 1 if identity else 0
    runner = ClipRunner(parsed, clips_folder, encoded, device_index=index)
    _leases.enter_context(runner.cache.leasing())
    return runner


def _release_leases() -> None:
    _leases.close()
    _runner.cache_clear()
