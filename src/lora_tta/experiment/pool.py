"""Clips spread over the processes of one machine."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from lora_tta.config import Params
from lora_tta.ends import follow_parent
from lora_tta.errors import UserError, disk_errors, reason_of
from lora_tta.experiment.processes import forkserver, num_processes, take_gpu
from lora_tta.records.clips import Clip
from lora_tta.records.point import Arm

if TYPE_CHECKING:
    from lora_tta.experiment.preloaded import ClipRunner
    from lora_tta.records.outcome import Outcomes

RUNNER_MODULE = "lora_tta.experiment.preloaded"
# A stage ends with an error when more than this share of its clips has failed.
MAX_FAILED_SHARE = 0.1


class ClipTasks(NamedTuple):
    """What is to be done to every clip.

    Attributes:
        params: of the pipeline.
        clips_folder: of the preprocessed clips.
        encoded: folder of the conditionings.
        clips: in the order in which they are taken.
        arms: in which each clip is run, see :meth:`ClipRunner.run`.
    """

    params: Params
    clips_folder: Path
    encoded: Path
    clips: Sequence[Clip]
    arms: Sequence[Arm]


@contextmanager
def clips_at_work(tasks: ClipTasks, description: str) -> "Iterator[Iterator[Outcomes]]":
    """Run clips in ``workers.processes`` processes, or in this one if that is 1.

    Work begins with the ``with`` block. The files of the outcomes stay in the cache until the block ends.

    Yields:
        An iterator over the clips in their order: an outcome or a failure for each of the arms. It raises a
        :class:`UserError` as soon as more than a tenth of the clips has failed, and the rest is left.
    """
    workers = tasks.params.workers.processes
    if workers == 1:
        from lora_tta.experiment.preloaded import ClipRunner

        runner = ClipRunner(tasks.params, tasks.clips_folder, tasks.encoded)
        with runner.working():
            here = _one_behind(run_arms(runner, clip, tasks.arms) for clip in tasks.clips)
            yield _checked(enumerate(here), tasks, description)
        return
    context = forkserver(RUNNER_MODULE)
    count = min(num_processes(workers, tasks.params.model, RUNNER_MODULE), max(1, len(tasks.clips)))
    results: SimpleQueue[Any] = context.SimpleQueue()
    taken, done = context.Value("i", 0), context.Event()
    processes = [
        context.Process(target=_work, args=(tasks, index, taken, results, done)) for index in range(count)
    ]
    for process in processes:
        process.start()
    try:
        yield _checked(_received(results, processes, len(tasks.clips), description), tasks, description)
        done.set()
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()


def run_arms(runner: "ClipRunner", clip: Clip, arms: Sequence[Arm]) -> "Future[Outcomes]":
    """Begin the work on a clip in each arm; what fails becomes a :class:`ClipFailure`."""
    from lora_tta.records.outcome import ClipFailure

    def guarded(work: Callable[[], Any]) -> Any:
        try:
            with disk_errors():
                return work()
        except UserError:
            raise
        except Exception as error:
            return ClipFailure(clip, reason_of(error))

    begun = [guarded(lambda of=arm: runner.begin(clip, of)) for arm in arms]
    return runner.beside.submit(
        lambda: tuple(guarded(part.result) if isinstance(part, Future) else part for part in begun)
    )


def _one_behind(futures: "Iterator[Future[Outcomes]]") -> "Iterator[Outcomes]":
    """The results of futures, each waited for when the next has been begun."""
    before: Future[Any] | None = None
    for future in futures:
        if before is not None:
            yield before.result()
        before = future
    if before is not None:
        yield before.result()


def _work(tasks: ClipTasks, index: int, taken: Any, results: "SimpleQueue[Any]", done: Any) -> None:
    """Take one clip after another, send its number and what became of it, and an error as one line."""
    from lora_tta.experiment.preloaded import ClipRunner

    follow_parent()
    try:
        take_gpu(index)
        runner = ClipRunner(tasks.params, tasks.clips_folder, tasks.encoded)
        # The parent copies the files of the outcomes from the cache, so they are leased until it is done.
        with runner.working():
            sent: list[Future[None]] = []
            while (number := _take(taken)) < len(tasks.clips):
                outcomes = run_arms(runner, tasks.clips[number], tasks.arms)
                sent.append(
                    runner.beside.submit(lambda at=number, of=outcomes: results.put((at, of.result())))
                )
                _raise_errors(future for future in sent if future.done())
            runner.beside.wait()
            _raise_errors(sent)
            done.wait()
    except Exception as error:
        results.put(reason_of(error))


def _raise_errors(futures: "Iterable[Future[None]]") -> None:
    for future in futures:
        future.result()


def _take(taken: Any) -> int:
    with taken.get_lock():
        taken.value += 1
        return taken.value - 1


def _received(
    results: "SimpleQueue[Any]", processes: Sequence[Any], num_clips: int, description: str
) -> "Iterator[tuple[int, Outcomes]]":
    """Numbers of clips with what became of them, as they come."""
    reader = results._reader  # type: ignore[attr-defined]
    for _ in range(num_clips):
        while not reader.poll():
            wait([reader, *(process.sentinel for process in processes)])
            if not reader.poll() and any(process.exitcode not in (None, 0) for process in processes):
                raise UserError(
                    f"{description}: a process died, as when memory runs out: lower workers.processes and "
                    "run again; finished clips are kept"
                )
        received = results.get()
        if isinstance(received, str):
            raise UserError(received)
        yield received


def _checked(
    arriving: "Iterator[tuple[int, Outcomes]]", tasks: ClipTasks, description: str
) -> "Iterator[Outcomes]":
    """Put outcomes in the order of the clips, and stop at too many failures."""
    from lora_tta.records.outcome import ClipFailure

    waiting: dict[int, Any] = {}
    failures: list[ClipFailure] = []
    following = 0
    for number, outcomes in tqdm(arriving, description, total=len(tasks.clips), unit="clip"):
        failures += [outcome for outcome in outcomes[:1] if isinstance(outcome, ClipFailure)]
        if len(failures) > MAX_FAILED_SHARE * len(tasks.clips):
            first = failures[0]
            raise UserError(
                f"{description}: {len(failures)} of {len(tasks.clips)} clips failed, the first is "
                f"{first.clip.clip_id} ({first.reason}): see the settings of adaptation and generation; "
                "finished clips are kept"
            )
        waiting[number] = outcomes
        while following in waiting:
            yield waiting.pop(following)
            following += 1
