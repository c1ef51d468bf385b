"""Where the time of `make demo` goes, stage by stage: `dvc repro` of a fresh copy, taken apart.

The repository is copied to a temporary folder with its data and model but no outputs, cache or study, and
`dvc repro` runs there with every Python process watched. Run from the repository root:

    python benchmarks/demo_breakdown.py --repeats 3 --output breakdown.json

Wall seconds of a stage are split by what its processes were doing, model time first: an instant counts as
model time if any process computes the model then, else as metrics if any measures, and so on down the list.
CPU seconds are summed over processes. Time that no stage is running is DVC's own.
"""

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from machine import describe_cpu
from probe import KINDS, claim_wall, clear_log, probed_environment, read_log


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
        copy = Path(folder, "demo")
        copy_repository(copy)
        environment = probed_environment(Path(folder), copy / "src")
        run = {"cwd": copy, "check": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        subprocess.run([sys.executable, "-m", "compileall", "-q", "src"], **run)
        if settings:
            subprocess.run(
                [sys.executable, "-m", "lora_tta.cli.main", "params", *settings], **run, env=environment
            )
        clear_log(Path(folder))
        start = time.time()
        subprocess.run(["dvc", "repro", *stages], **run, env=environment)
        end = time.time()
        processes = read_log(Path(folder))
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


def describe_machine() -> dict[str, str]:
    """What the figures were measured on."""
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


if __name__ == "__main__":
    main()
