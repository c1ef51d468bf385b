"""What Python processes of the pipeline spend their time on, without a change to the pipeline.

A copy of this file named ``sitecustomize.py`` on PYTHONPATH watches every Python process. Each process leaves
a file in the folder that ``PROBE_LOG`` names: its life in slices of one kind of work each, by thread.
"""

import atexit
import importlib.abc
import json
import os
import shutil
import sys
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path

LOG_VARIABLE, STAGE_VARIABLE = "PROBE_LOG", "PROBE_STAGE"
STAGE_PREFIX = "lora_tta.stages."
ENCODING, ADAPTATION, GENERATION = "encoding", "adaptation", "generation"
MODEL_KINDS = (ENCODING, ADAPTATION, GENERATION)
FIRST_USES, IMPORTS, OTHER = "compiling", "imports", "other"
# Kinds of work, with the functions that do them. What one calls of another kind counts as that one's.
FUNCTIONS = {
    ENCODING: [
        "lora_tta.backbones.opensora:OpenSoraBackbone.encode",
        "lora_tta.backbones.opensora:OpenSoraBackbone.reconstruct",
    ],
    ADAPTATION: ["lora_tta.adaptation.trajectory:adapt"],
    GENERATION: ["lora_tta.generation.continuation:generate_continuation"],
    FIRST_USES: ["lora_tta.models.speed.first_use:FirstUses.counted"],
    "loading": ["lora_tta.backbones:load_backbone"],
    "metrics": [
        "lora_tta.evaluation.metrics:ContinuationMetrics.__call__",
        "lora_tta.evaluation.perceptual:load_perceptual_distance",
    ],
    "decoding": ["lora_tta.data.video:read_video", "lora_tta.data.transcode:transcode"],
    "writing": [
        "lora_tta.data.video:write_video",
        "lora_tta.experiment.export:export_files",
        "lora_tta.experiment.export:export_tables",
        "lora_tta.experiment.export:strip",
        "lora_tta.adaptation.trajectory:Snapshot.save",
        "lora_tta.adaptation.trajectory:Snapshot.save_optimizer",
        "lora_tta.cache.store:ContentCache._add",
    ],
    "MLflow": [
        "lora_tta.tracking.mlflow_runs:open_experiment",
        "lora_tta.tracking.runs:study_run_id",
        "lora_tta.tracking.mlflow_runs:log_settings",
        "lora_tta.tracking.mlflow_runs:log_running_mean",
        "lora_tta.tracking.mlflow_runs:log_clip",
        "lora_tta.tracking.mlflow_runs:log_summary",
        "lora_tta.tracking.mlflow_runs:tag_state",
        "lora_tta.tracking.mlflow_runs:log_study",
        "lora_tta.tracking.runs:OpenRun.__init__",
        "lora_tta.tracking.runs:OpenRun.end",
    ],
    "Optuna": [
        "lora_tta.search.study:open_study",
        "lora_tta.search.study_export:export_study",
        "lora_tta.search.study_figures:study_figures",
        "lora_tta.search.worker:Worker._claim",
    ],
    "report": [
        "lora_tta.evaluation.comparison:compare",
        "lora_tta.report.dvc_plots:write_plots",
        "lora_tta.report.page:write_report",
        "lora_tta.report.page:write_costs_script",
    ],
    "hashing": [
        "lora_tta.cache.keys:code_version",
        "lora_tta.cache.model_identity:model_identity",
        "lora_tta.files:file_sha256",
    ],
    "waiting": [
        "lora_tta.experiment.beside:Beside.wait",
        "lora_tta.experiment.pool:_received",
        "lora_tta.search.launch:run_local_workers",
        "lora_tta.experiment.processes:call_in_process",
    ],
}
KINDS = [*FUNCTIONS, IMPORTS, OTHER]


class Probe:
    """Divides the life of every thread of a process into slices of one kind of work each."""

    def __init__(self, log: str):
        self._log = log
        self._begin()
        os.register_at_fork(after_in_child=self._begin)
        atexit.register(self._write)
        self._exit = os._exit
        os._exit = self._leave  # how the children of multiprocessing end
        self._watch_imports()
        sys.meta_path.insert(0, Wrapping(self))

    def timed(self, function, kind):
        """``function`` as work of a kind; a generator's work is done as it is iterated."""
        probe = self

        def call(*args, **kwargs):
            with probe.within(kind):
                result = function(*args, **kwargs)
            if hasattr(result, "__enter__") and hasattr(result, "gen"):
                return probe._entered(result, kind)
            return probe._iterated(result, kind) if hasattr(result, "send") else result

        call.__dict__.update(function.__dict__)
        call.__name__, call.__qualname__ = function.__name__, function.__qualname__
        call.__module__, call.__wrapped__ = function.__module__, function
        return call

    @contextmanager
    def _entered(self, context, kind):
        with self.within(kind), context as value:
            yield value

    def _iterated(self, generator, kind):
        while True:
            with self.within(kind):
                try:
                    item = next(generator)
                except StopIteration:
                    return
            yield item

    @contextmanager
    def within(self, kind):
        """What happens in here is of this kind, apart from what is of another kind again."""
        thread = self._thread()
        thread.end_slice()
        thread.stack.append(kind)
        try:
            yield
        finally:
            thread.end_slice()
            thread.stack.pop()

    def _begin(self):
        self._threads, self._local = [], threading.local()
        self._thread()

    def _thread(self):
        if not hasattr(self._local, "thread"):
            self._local.thread = Thread(is_main=not self._threads)
            self._threads.append(self._local.thread)
        return self._local.thread

    def _watch_imports(self):
        bootstrap = sys.modules["_frozen_importlib"]
        find_and_load = bootstrap._find_and_load

        def watched(name, import_):
            if name in sys.modules or self._thread().stack[-1] == IMPORTS:
                return find_and_load(name, import_)
            with self.within(IMPORTS):
                return find_and_load(name, import_)

        bootstrap._find_and_load = watched

    def _leave(self, status):
        self._write()
        self._exit(status)

    def _write(self):
        self._thread().end_slice()
        stage = os.environ.get(STAGE_VARIABLE, "dvc")
        main = any(part.startswith(STAGE_PREFIX) for part in sys.orig_argv)
        slices = [[*piece, thread.is_main] for thread in self._threads for piece in thread.slices]
        with open(Path(self._log, f"{os.getpid()}.json"), "w") as file:
            json.dump({"stage": stage, "main": main, "slices": slices}, file)


class Thread:
    """The slices of a thread: kind, start, end, CPU seconds."""

    def __init__(self, is_main):
        self.is_main = is_main
        self.stack, self.slices = [OTHER], []
        self._since = time.time(), time.thread_time()

    def end_slice(self):
        """Close the slice that is under way, by this thread itself or at the end of the process."""
        now = time.time(), time.thread_time()
        (start, cpu_start), kind = self._since, self.stack[-1]
        if self.slices and self.slices[-1][0] == kind:
            self.slices[-1][2] = now[0]
            self.slices[-1][3] += now[1] - cpu_start
        else:
            self.slices.append([kind, start, now[0], now[1] - cpu_start])
        self._since = now


class Wrapping(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Replaces the functions of ``FUNCTIONS`` as soon as their modules have been executed."""

    def __init__(self, probe):
        self._probe = probe
        self._wanted = defaultdict(list)
        for kind, names in FUNCTIONS.items():
            for name in names:
                module, _, path = name.partition(":")
                self._wanted[module].append((path.split("."), kind))

    def find_spec(self, name, path=None, target=None):
        """The usual spec of a module with such functions."""
        if name not in self._wanted:
            return None
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def execute_and_wrap(module):
            execute(module)
            for (*owners, attribute), kind in self._wanted[name]:
                owner = module
                for part in owners:
                    owner = getattr(owner, part)
                setattr(owner, attribute, self._probe.timed(getattr(owner, attribute), kind))

        spec.loader.exec_module = execute_and_wrap
        return spec


def probed_environment(folder: Path, code: Path) -> dict[str, str]:
    """Environment variables under which every Python process is watched.

    Args:
        folder: takes the probe, and the processes' files in ``log``.
        code: the ``src`` to import.
    """
    probe, log = folder / "probe", folder / "log"
    probe.mkdir(parents=True, exist_ok=True)
    log.mkdir(exist_ok=True)
    shutil.copy(__file__, probe / "sitecustomize.py")
    paths = [str(probe), str(code), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), LOG_VARIABLE: str(log)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    # Byte code that an earlier process compiled, as in an environment that is in use.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def clear_log(folder: Path) -> None:
    """Forget the processes so far."""
    shutil.rmtree(folder / "log")
    (folder / "log").mkdir()


def read_log(folder: Path) -> list[dict]:
    """The processes, the first to start first.

    ``{"stage", "main": of its stage, "slices": [[kind, start, end, CPU seconds, of the main thread]]}``
    """
    processes = [json.loads(path.read_text()) for path in (folder / "log").iterdir()]
    return sorted(processes, key=lambda process: process["slices"][0][1])


def claim_wall(slices: list[list], begin: float, finish: float, kinds: list[str] = KINDS) -> dict[str, float]:
    """Seconds of ``begin..finish`` by kind; an instant goes to the first of ``kinds`` that is under way."""
    changes = sorted(
        change
        for kind, start, end, *_ in slices
        for change in ((max(start, begin), 1, kind), (min(end, finish), -1, kind))
        if end > begin and start < finish
    )
    seconds, active, last = dict.fromkeys(kinds, 0.0), dict.fromkeys(kinds, 0), begin
    for moment, change, kind in changes:
        busy = next((name for name in kinds if active[name]), OTHER)
        seconds[busy] += moment - last
        active[kind] += change
        last = moment
    seconds[OTHER] += max(0.0, finish - last)
    return seconds


if __name__ == "sitecustomize" and LOG_VARIABLE in os.environ:
    for argument in sys.orig_argv:
        if argument.startswith(STAGE_PREFIX):
            os.environ[STAGE_VARIABLE] = argument.removeprefix(STAGE_PREFIX)
    Probe(os.environ[LOG_VARIABLE])
