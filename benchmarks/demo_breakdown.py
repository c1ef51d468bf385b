"""Where the time of `make demo` goes, stage by stage: `dvc repro` of a fresh copy, taken apart.

The repository is copied to a temporary folder with its data and model but no outputs, cache or study, and
`dvc repro` runs there with every Python process watched. Run from the repository root:

    python benchmarks/demo_breakdown.py --repeats 3 --output breakdown.json

Wall seconds of a stage are split by what its processes were doing, model time first: an instant counts as
model time if any process computes the model then, else as metrics if any measures, and so on down the list.
CPU seconds are summed over processes. Time that no stage is running is DVC's own.
"""

import argparse
import atexit
import importlib.abc
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path

LOG_VARIABLE, STAGE_VARIABLE = "DEMO_BREAKDOWN_LOG", "DEMO_BREAKDOWN_STAGE"
STAGE_PREFIX = "lora_tta.stages."
IMPORTS, OTHER = "imports", "other"
# Kinds of work in the order in which they claim the wall clock, with the functions that do them.
FUNCTIONS = {
    "model": [
        "lora_tta.backbones.opensora:OpenSoraBackbone.encode",
        "lora_tta.adaptation.trajectory:adapt",
        "lora_tta.generation.continuation:generate_continuation",
    ],
    "metrics": ["lora_tta.evaluation.metrics:ContinuationMetrics.__call__"],
    "video": [
        "lora_tta.data.transcode:transcode",
        "lora_tta.data.video:read_video",
        "lora_tta.data.video:write_video",
    ],
    "model loading": ["lora_tta.backbones:load_backbone"],
    "metric set-up": ["lora_tta.evaluation.perceptual:load_perceptual_distance"],
    "MLflow": [
        "lora_tta.tracking.mlflow_runs:open_experiment",
        "lora_tta.tracking.mlflow_runs:open_study_run",
        "lora_tta.tracking.mlflow_runs:open_trial_run",
        "lora_tta.tracking.mlflow_runs:log_settings",
        "lora_tta.tracking.mlflow_runs:log_running_mean",
        "lora_tta.tracking.mlflow_runs:log_outcomes",
        "lora_tta.tracking.mlflow_runs:tag_state",
        "lora_tta.tracking.mlflow_runs:log_study",
        "mlflow.tracking.fluent:start_run",
        "mlflow.tracking.fluent:end_run",
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
    "hashes": [
        "lora_tta.cache.keys:code_version",
        "lora_tta.cache.model_identity:model_identity",
        "lora_tta.files:file_sha256",
    ],
}
KINDS = [*FUNCTIONS, IMPORTS, OTHER]


class Probe:
    """Divides the life of a process into slices of one kind of work each, by its main thread."""

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
            return probe._iterated(result, kind) if hasattr(result, "send") else result

        call.__dict__.update(function.__dict__)
        call.__name__, call.__qualname__ = function.__name__, function.__qualname__
        call.__module__, call.__wrapped__ = function.__module__, function
        return call

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
        self._end_slice()
        self._stack.append(kind)
        try:
            yield
        finally:
            self._end_slice()
            self._stack.pop()

    def _begin(self):
        self._stack, self._slices = [OTHER], []
        self._since = time.time(), time.process_time()

    def _end_slice(self):
        now = time.time(), time.process_time()
        (start, cpu_start), kind = self._since, self._stack[-1]
        if self._slices and self._slices[-1][0] == kind:
            self._slices[-1][2] = now[0]
            self._slices[-1][3] += now[1] - cpu_start
        else:
            self._slices.append([kind, start, now[0], now[1] - cpu_start])
        self._since = now

    def _watch_imports(self):
        bootstrap = sys.modules["_frozen_importlib"]
        find_and_load = bootstrap._find_and_load

        def watched(name, import_):
            if name in sys.modules or self._stack[-1] == IMPORTS:
                return find_and_load(name, import_)
            with self.within(IMPORTS):
                return find_and_load(name, import_)

        bootstrap._find_and_load = watched

    def _leave(self, status):
        self._write()
        self._exit(status)

    def _write(self):
        self._end_slice()
        stage = os.environ.get(STAGE_VARIABLE, "dvc")
        main = any(part.startswith(STAGE_PREFIX) for part in sys.orig_argv)
        with open(Path(self._log, f"{os.getpid()}.json"), "w") as file:
            json.dump({"stage": stage, "main": main, "slices": self._slices}, file)


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


def main() -> None:
    """Run the demo ``--repeats`` times and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stages", nargs="*", default=[], help="targets for `dvc repro`; all if left out")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE", help="changed settings")
    parser.add_argument("--output", type=Path, help="write the figures as JSON too")
    arguments = parser.parse_args()
    runs = []
    for number in range(arguments.repeats):
        try:
            runs.append(run_demo(arguments.stages, arguments.set))
        except subprocess.CalledProcessError as error:
            output = error.stdout.decode(errors="replace")
            raise SystemExit(f"{output}\nerror: {' '.join(error.cmd)} failed") from error
        print(f"run {number + 1} of {arguments.repeats}: {runs[-1]['total']['wall']:.1f} s", flush=True)
    environment = describe_machine()
    print("\n" + "\n".join(f"{name}: {value}" for name, value in environment.items()) + "\n")
    print(table(runs))
    if arguments.output:
        arguments.output.write_text(json.dumps({"environment": environment, "runs": runs}, indent=1) + "\n")


def run_demo(stages: list[str], settings: list[str]) -> dict[str, dict[str, float]]:
    """One `dvc repro` in a fresh copy; ``{stage: {"wall", "CPU", "<kind>", "<kind> CPU": seconds}}``."""
    with tempfile.TemporaryDirectory() as folder:
        copy, probe, log = (Path(folder, name) for name in ("demo", "probe", "log"))
        copy_repository(copy)
        probe.mkdir()
        shutil.copy(__file__, probe / "sitecustomize.py")
        paths = [str(probe), str(copy / "src")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), LOG_VARIABLE: str(log)}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
        # What the demo finds in `.venv`: byte code that an earlier process compiled.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        run = {"cwd": copy, "check": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        subprocess.run([sys.executable, "-m", "compileall", "-q", "src"], **run)
        if settings:
            subprocess.run(["lora-tta", "params", *settings], **run, env=environment)
        log.mkdir()
        start = time.time()
        subprocess.run(["dvc", "repro", *stages], **run, env=environment)
        end = time.time()
        processes = [json.loads(path.read_text()) for path in log.iterdir()]
        return break_down(processes, start, end)


def copy_repository(target: Path) -> None:
    """The working tree's files with data and model, but nothing that was computed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        check=True,
        capture_output=True,
        text=True,
    )
    names = [name for name in listed.stdout.split("\0") if name and Path(name).is_file()]
    names += [str(path) for root in ("data", "models") for path in Path(root).rglob("*") if path.is_file()]
    for name in dict.fromkeys(names):
        destination = target / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(name, destination)
    git = ["git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
    for command in (["git", "init", "-q"], ["git", "add", "-A"], [*git, "commit", "-q", "-m", "copy"]):
        subprocess.run(command, cwd=target, check=True)


def break_down(processes: list[dict], start: float, end: float) -> dict[str, dict[str, float]]:
    """Seconds by stage and kind from the slices of all processes of one run."""
    result = {}
    processes = sorted(processes, key=lambda process: process["slices"][0][1])
    for stage in dict.fromkeys(process["stage"] for process in processes):
        members = [process for process in processes if process["stage"] == stage]
        slices = [piece for process in members for piece in process["slices"]]
        if stage == "dvc":
            continue
        # Children of a child end after it has written: the main process is what DVC waits for.
        main = [piece for process in members if process["main"] for piece in process["slices"]]
        begin, finish = min(piece[1] for piece in main), max(piece[2] for piece in main)
        seconds = claim_wall(slices, begin, finish)
        for kind in KINDS:
            seconds[f"{kind} CPU"] = sum(piece[3] for piece in slices if piece[0] == kind)
        cpu = sum(piece[3] for piece in slices)
        result[stage] = {"wall": finish - begin, "CPU": cpu, **seconds}
    dvc = [piece for process in processes if process["stage"] == "dvc" for piece in process["slices"]]
    result["DVC"] = {
        "wall": end - start - sum(row["wall"] for row in result.values()),
        "CPU": sum(piece[3] for piece in dvc),
    }
    names = {name for row in result.values() for name in row}
    result["total"] = {name: sum(row.get(name, 0.0) for row in result.values()) for name in names}
    result["total"]["wall"] = end - start
    return result


def claim_wall(slices: list[list], begin: float, finish: float) -> dict[str, float]:
    """Seconds of ``begin..finish`` by kind; an instant goes to the first of ``KINDS`` that is under way."""
    changes = sorted(
        change
        for kind, start, end, _ in slices
        for change in ((max(start, begin), 1, kind), (min(end, finish), -1, kind))
        if end > begin and start < finish
    )
    seconds, active, last = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0), begin
    for moment, change, kind in changes:
        busy = next((name for name in KINDS if active[name]), OTHER)
        seconds[busy] += moment - last
        active[kind] += change
        last = moment
    return seconds


def describe_machine() -> dict[str, str]:
    """What the figures were measured on."""
    # Not at the top: a copy of this file watches the stages' processes, alone and before anything else.
    from importlib.metadata import version

    from machine import describe_cpu

    libraries = ("torch", "diffusers", "transformers", "peft", "mlflow", "optuna", "dvc", "av")
    return {
        "CPU": describe_cpu(),
        "Python": platform.python_version(),
        "libraries": ", ".join(f"{name} {version(name)}" for name in libraries),
    }


def table(runs: list[dict[str, dict[str, float]]]) -> str:
    """Markdown: a row for each stage, a column for each kind; medians, the walls with their ranges."""
    kinds = [kind for kind in KINDS if max(median(runs, "total", kind)) >= 0.05]
    lines = [
        f"| stage | wall s (range) | CPU s | {' | '.join(kinds)} |",
        f"| --- | --- | --- |{' --- |' * len(kinds)}",
    ]
    for stage in runs[0]:
        wall, low, high = median(runs, stage, "wall")
        cells = [f"{median(runs, stage, kind)[0]:.1f}" for kind in kinds]
        cpu = median(runs, stage, "CPU")[0]
        lines.append(f"| {stage} | {wall:.1f} ({low:.1f}-{high:.1f}) | {cpu:.1f} | {' | '.join(cells)} |")
    cells = [f"{median(runs, 'total', f'{kind} CPU')[0]:.1f}" for kind in kinds]
    lines.append(f"| total, CPU s |  | {median(runs, 'total', 'CPU')[0]:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def median(runs: list[dict[str, dict[str, float]]], stage: str, name: str) -> tuple[float, float, float]:
    """Median, least and largest of a figure over the runs."""
    values = [run[stage].get(name, 0.0) for run in runs]
    return statistics.median(values), min(values), max(values)


if __name__ == "sitecustomize" and LOG_VARIABLE in os.environ:
    for argument in sys.orig_argv:
        if argument.startswith(STAGE_PREFIX):
            os.environ[STAGE_VARIABLE] = argument.removeprefix(STAGE_PREFIX)
    Probe(os.environ[LOG_VARIABLE])
if __name__ == "__main__":
    main()
