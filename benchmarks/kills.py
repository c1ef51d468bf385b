"""A search that is killed at random moments ends as an undisturbed one: outputs, study, and MLflow's runs.

Each kill (SIGKILL) meets, by chance, the whole tree of processes, the parent alone, a worker, a worker as it
logs, or an eviction from the cache. After it the search is started again, as often as it takes.
Run from the repository root, after ``dvc pull``:

    python benchmarks/kills.py --kills 40
    python benchmarks/kills.py --kills 2 --trials 4        # smoke test of this script
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow
from small_study import prepare_study

from lora_tta.records.metric_table import COSTS

TREE, PARENT, WORKER, LOGGING, EVICTION = KINDS = (
    "whole tree",
    "parent",
    "worker",
    "worker as it logs",
    "eviction",
)
# The longest that a kill waits for, after the search has begun to work.
MAX_WAIT = 6.0
# What a run says of itself that differs whenever it is made.
VARYING = ("running_", "system/", "mean_", *(cost.name for cost in COSTS))


def start(folder: Path, *command: str) -> subprocess.Popen:
    """Start a module of the package in a session of its own."""
    with (folder / "said").open("a") as said:
        return subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, stdout=said, stderr=said, start_new_session=True
        )


def workers(folder: Path) -> list[int]:
    """Process ids of the workers that beat."""
    return [int(path.name.split("-")[-2]) for path in folder.glob(".cache/lora-tta/workers/*/*")]


def kill(number: int) -> bool:
    """Whether a process was there to be killed."""
    try:
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def disturb(kind: str, search: subprocess.Popen, folder: Path, chance: random.Random) -> bool:
    """Kill something of a search that works; whether there was something."""
    if kind == EVICTION:
        eviction = start(folder, "lora_tta.cli.main", "cache", "--max-gigabytes=0.0001")
        time.sleep(chance.uniform(0, 2))
        return eviction.poll() is None and kill(eviction.pid)
    time.sleep(chance.uniform(0, MAX_WAIT))
    if kind == LOGGING:
        artifacts = folder / "mlruns/artifacts"
        before, began = len(list(artifacts.rglob("*"))), time.monotonic()
        while len(list(artifacts.rglob("*"))) == before and time.monotonic() - began < MAX_WAIT:
            time.sleep(0.005)
    if kind in (TREE, PARENT):
        if search.poll() is not None:
            return False
        (os.killpg if kind == TREE else os.kill)(search.pid, signal.SIGKILL)
        return True
    alive = [pid for pid in workers(folder) if Path(f"/proc/{pid}").exists()]
    return bool(alive) and kill(chance.choice(alive))


def disturbed_search(folder: Path, kills: int, chance: random.Random) -> Counter[str]:
    """Search until the study is finished, and kill on the way; returns the kills by their kind."""
    done: Counter[str] = Counter()
    while True:
        search = start(folder, "lora_tta.stages.search")
        while search.poll() is None:
            if done.total() < kills and any(Path(f"/proc/{pid}").exists() for pid in workers(folder)):
                kind = chance.choice(KINDS)
                done[kind] += disturb(kind, search, folder, chance)
            time.sleep(0.1)
        if search.returncode == 0:
            return done


def files_of(folder: Path) -> dict[str, str]:
    """Hashes of the files that DVC tracks."""
    root = folder / "outputs/search"
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def runs_of(folder: Path) -> dict[str, Any]:
    """Of each run by its key: how many there are, status, parameters, metrics, and names of artifacts."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlruns/mlflow.db")
    client, found = mlflow.MlflowClient(), {}
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    keys = Counter(run.data.tags["lora_tta.key"] for run in runs)
    for run in runs:
        key = run.data.tags["lora_tta.key"]
        metrics = {name: value for name, value in run.data.metrics.items() if not name.startswith(VARYING)}
        names = {name.path for name in client.list_artifacts(run.info.run_id)}
        videos = {name.path for name in client.list_artifacts(run.info.run_id, "videos")}
        found[key] = (keys[key], run.info.status, run.data.params, metrics, names | videos)
    return found


def main() -> None:
    """Search twice, compare, and print what was killed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        calm, disturbed = Path(temporary) / "calm", Path(temporary) / "disturbed"
        prepare_study(calm, arguments.trials, processes=2, sampler="grid")
        shutil.copytree(calm, disturbed)
        if start(calm, "lora_tta.stages.search").wait():
            raise SystemExit((calm / "said").read_text())
        began = time.monotonic()
        done = disturbed_search(disturbed, arguments.kills, random.Random(arguments.seed))
        print(f"{done.total()} kills in {time.monotonic() - began:.0f} s: {dict(done)}")
        print("tracebacks:", (disturbed / "said").read_text().count("Traceback"))
        same_files = files_of(calm) == files_of(disturbed)
        calm_runs, runs = runs_of(calm), runs_of(disturbed)
        print(
            f"outputs and study the same: {same_files}; "
            f"MLflow's {len(runs)} runs the same: {calm_runs == runs}"
        )
        for key in calm_runs.keys() | runs.keys():
            if calm_runs.get(key) != runs.get(key):
                print(f"  {key}: {calm_runs.get(key)}\n    and {runs.get(key)}")
        sys.exit(not same_files or calm_runs != runs)


if __name__ == "__main__":
    main()
