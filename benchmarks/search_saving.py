"""What the search saves: one space as a plain grid, as this platform's search, and with a pruner.

- The plain grid adapts every clip of every trial from step 0 and encodes it anew; trials share nothing, and
  keep no snapshots.
- The search is a study with the sampler of ``params.yaml``: snapshots of trajectories, and the cache.
- The same study with Optuna's Wilcoxon pruner, which stops trials early.

Work is counted where it is done, when it is finished. What is finished stays in ``--work``: run the command
again after a kill, and it goes on. Run from the repository root, after ``dvc pull``:

    python benchmarks/search_saving.py --processes 2
    python benchmarks/search_saving.py --tiny --clips 1        # smoke test of this script
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from lora_tta.adaptation.trajectory import adapt
from lora_tta.backbones import load_backbone
from lora_tta.backbones.base import Backbone
from lora_tta.config import Params, load_params
from lora_tta.data.preprocess import preprocess
from lora_tta.experiment import lazy_model, runner
from lora_tta.experiment.encoding import encode_clip
from lora_tta.experiment.lazy_model import LazyModel
from lora_tta.experiment.runner import ClipRunner
from lora_tta.files import write_text
from lora_tta.generation.continuation import generate_continuation
from lora_tta.records.clips import Clip, read_manifest
from lora_tta.records.point import Point, describe
from lora_tta.records.results import mean_metrics
from lora_tta.records.search_folders import SearchFolders
from lora_tta.search.rounds import run_worker
from lora_tta.search.study import CLIPS_ATTRIBUTE, best_trial, open_study, point_of

STEPS, GENERATED, BASELINES, ENCODED = KINDS = (
    "adaptation steps",
    "generated clips",
    "baseline generations",
    "encoded clips",
)
# The specification's 18 points.
SPACE = {"rank": [8, 16, 32], "learning_rate": [1e-4, 2e-4], "num_steps": [20, 50, 100]}
TINY_SPACE = {"rank": [2, 4], "learning_rate": [1e-3], "num_steps": [1, 3]}
LOG_NAME, PSNR_NAME = "executed.csv", "psnr.txt"
GRID, SEARCH, PRUNED = "plain grid", "search", "search, Wilcoxon pruner"


@dataclass(frozen=True)
class Outcome:
    """What a variant executed and found.

    Attributes:
        executed: finished pieces of work by kind.
        cpu_seconds: of this work.
        values: mean PSNR of the trials that ran on all clips, by their points in words.
        best: the point of the best of them.
        clip_runs: clips of all trials.
    """

    executed: dict[str, int]
    cpu_seconds: float
    values: dict[str, float]
    best: str
    clip_runs: int


def count_work(log: Path) -> None:
    """Make this process append a line to ``log`` for every piece of the model's work that it finishes."""

    def add(kind: str, count: int, began: float) -> None:
        with log.open("a") as file:
            file.write(f"{kind},{count},{time.process_time() - began}\n")

    def counted_adapt(*args, start=None, **options) -> Iterator:
        steps, began = start.num_steps if start else 0, time.process_time()
        for snapshot in adapt(*args, start=start, **options):
            add(STEPS, snapshot.num_steps - steps, began)
            yield snapshot
            steps, began = snapshot.num_steps, time.process_time()

    def counted_generation(backbone, *args):
        began = time.process_time()
        continuation = generate_continuation(backbone, *args)
        add(GENERATED if getattr(backbone.network, "peft_config", None) else BASELINES, 1, began)
        return continuation

    def load_counting_backbone(*args) -> Backbone:
        backbone = load_backbone(*args)
        encode = backbone.encode

        def counted_encoding(*args):
            began = time.process_time()
            conditioning = encode(*args)
            add(ENCODED, 1, began)
            return conditioning

        backbone.encode = counted_encoding
        return backbone

    runner.adapt, runner.generate_continuation = counted_adapt, counted_generation
    lazy_model.load_backbone = load_counting_backbone


def in_processes(count: int, work: Callable, *args) -> None:
    """Call ``work(*args, index)`` in ``count`` processes, index 0 and up."""
    # Forked, so that torch is imported once: this process only reads, on one thread and without CUDA.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(*args, index)) for index in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit("a process ended early: see above, and run again to go on")


def own_cache(params: Params, folder: Path) -> Params:
    """The settings with cache and MLflow store in ``folder``."""
    values = params.model_dump()
    values["cache"]["path"] = folder / "cache"
    values["tracking"] |= {"uri": f"sqlite:///{folder}/mlflow.db", "artifact_root": folder / "artifacts"}
    return Params.model_validate(values)


def without_snapshots(params: Params) -> Params:
    """The settings of a search that does not vary the number of steps, for which snapshots are kept."""
    values = params.model_dump()
    del values["search"]["space"]["num_steps"]
    return Params.model_validate(values)


def encoded_runner(params: Params, clips_folder: Path, clips: list[Clip], encoded: Path) -> ClipRunner:
    """A runner, after the clips have been encoded into ``encoded``."""
    clip_runner = ClipRunner(params, clips_folder, encoded)
    model = LazyModel(params.model, params.cache.path, for_encoding=True)
    encoded.mkdir(parents=True, exist_ok=True)
    for clip in clips:
        path = encoded / f"{clip.clip_id}.safetensors"
        encode_clip(model, clip_runner.cache, clips_folder, clip, path)
    return clip_runner


def grid_points(params: Params) -> list[Point]:
    """The points of the space in the grid's order."""
    space = params.search.space
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def run_alone(
    params: Params, clips_folder: Path, clips: list[Clip], folder: Path, point: Point | None
) -> None:
    """One trial of the plain grid, or the baseline, in ``folder``, with a cache that no other uses."""
    if (folder / PSNR_NAME).exists():
        return
    alone = without_snapshots(own_cache(params, folder))
    clip_runner = encoded_runner(alone, clips_folder, clips, folder / "encoded")
    results = [clip_runner.run(clip, point).result for clip in clips]
    write_text(folder / PSNR_NAME, str(mean_metrics(results)["psnr"]))


def grid_folder(folder: Path, point: Point | None) -> Path:
    """Where a trial of the plain grid, or the baseline, lies."""
    return folder / ("baseline" if point is None else "-".join(map(str, point.values())))


def work_on_grid(params: Params, clips_folder: Path, clips: list[Clip], folder: Path, index: int) -> None:
    """The share of one process of the plain grid."""
    count_work(folder / LOG_NAME)
    for point in [None, *grid_points(params)][index :: params.workers.processes]:
        run_alone(params, clips_folder, clips, grid_folder(folder, point), point)


def run_grid(params: Params, clips_folder: Path, clips: list[Clip], folder: Path) -> Outcome:
    """Every point on every clip."""
    in_processes(params.workers.processes, work_on_grid, params, clips_folder, clips, folder)
    values = {
        describe(point): float((grid_folder(folder, point) / PSNR_NAME).read_text())
        for point in grid_points(params)
    }
    # The first of equals, as in a study.
    best = max(values, key=values.__getitem__)
    return Outcome(*executed(folder), values, best, clip_runs=len(values) * len(clips))


def work_on_study(params: Params, clips_folder: Path, clips: list[Clip], folder: Path, index: int) -> None:
    """The share of one process of a study: stage ``encode``, through the shared cache, and a worker."""
    count_work(folder / LOG_NAME)
    encoded = folder / f"encoded-{index}"
    encoded_runner(params, clips_folder, clips, encoded)
    run_worker(params, SearchFolders(clips_folder, encoded, folder / "study"), clips, index)


def run_study(params: Params, clips_folder: Path, clips: list[Clip], folder: Path, pruner: str) -> Outcome:
    """Every point in a study."""
    values = own_cache(params, folder).model_dump()
    values["search"] |= {"pruner": pruner}
    params = Params.model_validate(values)
    in_processes(params.workers.processes, work_on_study, params, clips_folder, clips, folder)
    identity = ClipRunner(params, clips_folder, folder / "encoded-0").study_identity(clips)
    study = open_study(folder / "study", params, identity)

    def words(trial: FrozenTrial) -> str:
        point = point_of(trial)
        return describe({name: point[name] for name in params.search.space})

    return Outcome(
        *executed(folder),
        values={words(trial): trial.values[0] for trial in study.get_trials(states=[TrialState.COMPLETE])},
        best=words(best_trial(study, params.search.num_trials)),
        clip_runs=sum(trial.user_attrs.get(CLIPS_ATTRIBUTE, 0) for trial in study.trials),
    )


def executed(folder: Path) -> tuple[dict[str, int], float]:
    """Counts of the finished work of a variant by kind, and its CPU seconds."""
    log = pd.read_csv(folder / LOG_NAME, names=["kind", "count", "seconds"])
    counts = log.groupby("kind")["count"].sum()
    return {kind: int(counts.get(kind, 0)) for kind in KINDS}, float(log["seconds"].sum())


def table(outcomes: dict[str, Outcome], step_seconds: float, generation_seconds: float) -> pd.DataFrame:
    """A column for each variant."""
    grid = outcomes[GRID]

    def gpu_seconds(outcome: Outcome) -> float:
        generations = outcome.executed[GENERATED] + outcome.executed[BASELINES]
        return outcome.executed[STEPS] * step_seconds + generations * generation_seconds

    columns = {}
    for name, outcome in outcomes.items():
        equal = sum(grid.values[point] == value for point, value in outcome.values.items())
        columns[name] = {
            "trials on all clips": str(len(outcome.values)),
            "clips of all trials": str(outcome.clip_runs),
            **{kind: str(count) for kind, count in outcome.executed.items()},
            "CPU s of the model's work, measured": f"{outcome.cpu_seconds:.0f}",
            "saving, CPU": f"{grid.cpu_seconds / outcome.cpu_seconds:.2f} x",
            f"GPU s at {step_seconds:g} a step, {generation_seconds:g} a generation": (
                f"{gpu_seconds(outcome):.0f}"
            ),
            "saving, GPU": f"{gpu_seconds(grid) / gpu_seconds(outcome):.2f} x",
            "best": outcome.best,
            "PSNR of the best": f"{outcome.values[outcome.best]:.6f}",
            "values equal to the plain grid's": f"{equal} of {len(outcome.values)}",
            "same best as the plain grid": "yes" if outcome.best == grid.best else "NO",
        }
    return pd.DataFrame(columns)


def build_params(options: argparse.Namespace) -> Params:
    """The repository's settings with the benchmark's space."""
    values = load_params().model_dump()
    # The published numbers of steps, the same for every clip: one trajectory has a snapshot at each.
    values["adaptation"] |= {"stopping": None, "timesteps": "uniform"}
    if options.data:
        values["data"]["root"] = options.data
    if options.model:
        values["model"]["path"] = options.model
    if options.tiny:
        values["preprocess"] |= {"height": 32, "width": 48}
        values["generation"]["num_inference_steps"] = 1
    values["search"] |= {
        "n_trials": np.iinfo(np.int32).max,
        "num_clips": options.clips,
        "storage": None,
        "constraints": [],
        "objectives": [{"metric": "psnr", "direction": "maximize"}],
        "space": TINY_SPACE if options.tiny else SPACE,
    }
    values["model"]["device"] = "cpu"
    values["evaluation"]["lpips"] = "untrained"
    values["workers"]["processes"] = options.processes
    return Params.model_validate(values)


def main() -> None:
    """Run the variants one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=12, help="of the preprocessed clips, the first")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--step-seconds", type=float, default=0.25, help="full size: a LoRA step")
    parser.add_argument("--generation-seconds", type=float, default=10.9, help="full size: a generation")
    parser.add_argument("--work", type=Path, default=Path(".cache/search_saving"), help="what is finished")
    parser.add_argument("--model", type=Path, help="another model folder than params.yaml's")
    parser.add_argument("--data", type=Path, help="another data folder than params.yaml's")
    parser.add_argument("--tiny", action="store_true", help="few, short trials on 32x48 pixels")
    options = parser.parse_args()

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    work = options.work.absolute() / f"{'tiny' if options.tiny else 'full'}-{options.clips}-clips"
    params = build_params(options)
    # One process: others would import all that this script does.
    preprocess(params.data, params.preprocess, work / "clips", workers=1)
    clips = read_manifest(work / "clips")[: options.clips]
    for variant in ("grid", "search", "pruned"):
        (work / variant).mkdir(exist_ok=True)
    arguments = (params, work / "clips", clips)
    outcomes = {
        GRID: run_grid(*arguments, work / "grid"),
        SEARCH: run_study(*arguments, work / "search", "none"),
        PRUNED: run_study(*arguments, work / "pruned", "wilcoxon"),
    }
    columns = table(outcomes, options.step_seconds, options.generation_seconds)
    write_text(work / "table.json", json.dumps(columns.to_dict(), indent=1))
    print(
        f"\n{len(clips)} clips, {len(grid_points(params))} points, {params.model.path}, sampler "
        f"{params.search.sampler}, {options.processes} processes of {params.model.num_threads} threads on "
        f"{os.cpu_count()} cores ({platform.machine()})\n"
    )
    print(columns.to_markdown())


if __name__ == "__main__":
    main()
