"""Processes for benchmarks/adaptation_recipes.py: tasks of any settings and clips, several at once on a GPU.

The pool of the pipeline runs one setting on all clips and gives each process a GPU of its own. Here every
task has its own settings, and processes may share a GPU, as the embedded model leaves most of one idle. A
task that fails, and a process that dies, spoil that task alone. The others go on without a dead process.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lora_tta.config import Params
from lora_tta.ends import follow_parent
from lora_tta.errors import UserError, reason_of
from lora_tta.experiment.pool import RUNNER_MODULE
from lora_tta.experiment.preloaded import ClipRunner
from lora_tta.experiment.processes import call_in_process, count_gpus, forkserver, take_gpu
from lora_tta.records.clips import Clip
from lora_tta.records.point import Arm
from lora_tta.records.results import ClipResult


@dataclass(frozen=True)
class Encoding:
    """The conditioning of a clip is to be made, as the stage ``encode`` makes it."""

    clip: Clip
    name = "encode"

    def do(self, worker: "Worker") -> None:
        """Write the file, unless it is there."""
        worker.encode(self.clip)


@dataclass(frozen=True)
class Trajectory:
    """A clip is to be run in some arms: rising numbers of steps of one adaptation, or without any."""

    name: str
    params: Params
    clip: Clip
    arms: Sequence[Arm]

    def do(self, worker: "Worker") -> list[ClipResult | str]:
        """The result of each arm, or the reason for having none."""
        runner = worker.runner_at(self.params)
        return [attempt(lambda arm=arm: runner.run(self.clip, arm).result) for arm in self.arms]


Task = Encoding | Trajectory


class Worker:
    """What a process keeps from task to task.

    Args:
        params: whose model and cache all tasks have.
        clips_folder: of the preprocessed clips.
        encoded: folder of the conditionings.
    """

    def __init__(self, params: Params, clips_folder: Path, encoded: Path):
        self._runner = ClipRunner(params, clips_folder, encoded)

    def encode(self, clip: Clip) -> None:
        """Encode a clip with the model's encoders, which adaptation has no use for."""
        from lora_tta.experiment.encoding import encode_clip

        runner = self._runner
        output = runner.encoded / f"{clip.clip_id}.safetensors"
        encode_clip(self._encoder, runner.cache, runner.clips_folder, clip, output)

    def runner_at(self, params: Params) -> ClipRunner:
        """A runner with these settings, and with the metrics that the one before it has loaded."""
        self._runner = self._runner.at(params)
        return self._runner

    @cached_property
    def _encoder(self) -> Any:
        from lora_tta.experiment.lazy_model import LazyModel

        params = self._runner.params
        return LazyModel(params.model, params.cache.path, for_encoding=True)


class Pool:
    """Processes that take tasks until the ``with`` block ends.

    Args:
        count: of processes; the GPUs that this process may use take turns, and without one each has the
            threads of ``params.model.num_threads``.
        worker: the arguments of :class:`Worker`.
    """

    def __init__(self, count: int, *worker: Any):
        context = forkserver(RUNNER_MODULE)
        gpus = 0 if worker[0].model.device == "cpu" else call_in_process(RUNNER_MODULE, count_gpus)
        self._processes: dict[Connection, Any] = {}
        for index in range(count):
            ours, theirs = context.Pipe()
            gpu = index % gpus if gpus else None
            process = context.Process(target=_work, args=(theirs, gpu, *worker))
            process.start()
            theirs.close()
            self._processes[ours] = process

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for connection, process in self._processes.items():
            connection.close()
            if kind is not None:
                process.terminate()
        for process in self._processes.values():
            process.join()

    def run(
        self, tasks: Sequence[Task], description: str, wanted: Callable[[Any], bool] = lambda _: True
    ) -> Iterator[tuple[int, Any]]:
        """Do tasks, begun in their order.

        Args:
            tasks: any number.
            description: of the progress bar.
            wanted: whether a task is to be begun, asked when its turn comes; others yield nothing.

        Yields:
            The number of a task and what came of it, or the reason for nothing as a string, as they come.

        Raises:
            UserError: tasks wait, and no process is left.
        """
        waiting, busy = iter(enumerate(tasks)), {}
        idle = list(self._processes)
        with tqdm(total=len(tasks), desc=description, unit="task", smoothing=0.05) as bar:
            while True:
                while idle and (following := next(waiting, None)):
                    number, task = following
                    if not wanted(task):
                        continue
                    connection = idle.pop(0)
                    with suppress(OSError):  # that it has died is found below
                        connection.send(task)
                    busy[connection] = number
                if not busy:
                    if not self._processes and next(waiting, None):
                        raise UserError(
                            f"{description}: all processes died, as when memory runs out: take fewer; "
                            "finished work is kept"
                        )
                    break
                for connection in wait(list(busy)):
                    number = busy.pop(connection)
                    try:
                        result = connection.recv()
                        idle.append(connection)
                    except (EOFError, OSError):
                        result = "its process died, as when memory runs out"
                        self._processes.pop(connection).join()
                    bar.update()
                    yield number, result


def attempt(work: Callable[[], Any]) -> Any:
    """What ``work`` returns, or the reason for its failure as a string."""
    try:
        return work()
    except Exception as error:
        return reason_of(error)


def _work(connection: Connection, gpu: int | None, *worker: Any) -> None:
    """Do what comes until the other end is closed."""
    follow_parent()
    if gpu is not None:
        take_gpu(gpu)
    worker_here = cache(lambda: Worker(*worker))
    while True:
        try:
            task: Task = connection.recv()
        except EOFError:
            return
        connection.send(attempt(lambda task=task: task.do(worker_here())))
