"""Which way of adapting helps: methods and objectives at their best, on clips that did not choose it.

Every recipe is run at each of its learning rates and numbers of steps on the clips of the split `search`. The
point with the best PSNR there is run on the clips of the split `test`, against no adaptation. The settings of
generation and model are those of `params.yaml`, and the clips those of `outputs/clips`. Work that is finished
stays in the cache: run the command again after a kill, and it goes on. From the repository root, after
`dvc repro preprocess`, or with clips of benchmarks/evidence_clips.py:

    python benchmarks/adaptation_recipes.py --output recipes.json
    python benchmarks/adaptation_recipes.py --clips-folder .cache/evidence/clips \\
        --encoded .cache/evidence/encoded --processes 16 --minutes 25 --output recipes.json
    python benchmarks/adaptation_recipes.py --clips 1 --recipes offset --steps 1  # smoke test of this script
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from recipes_pool import Encoding, Pool, Trajectory
from recipes_table import figures, markdown, references
from tqdm import tqdm

from lora_tta.config import AdaptationParams, GenerationParams, Params
from lora_tta.errors import UserError, report_user_errors
from lora_tta.experiment.lazy_model import LazyModel
from lora_tta.files import write_text
from lora_tta.records.clips import Clip, Split, read_manifest
from lora_tta.records.results import ClipResult
from lora_tta.records.yardsticks import LAST_FRAME
from lora_tta.stages.paths import CLIPS, ENCODED
from lora_tta.stages.stage_params import load_stage_params

LORA = {
    "name": "lora",
    "rank": 8,
    "alpha_over_rank": 2.0,
    "targets": ["attention"],
    "last_blocks": None,
    "pattern": None,
    "use_rslora": False,
    "use_dora": False,
    "init_lora_weights": True,
}
STEPS = (20, 50, 100)
NO_ADAPTATION, STILL = "no adaptation", "last frame repeated"
# All snapshots of a search, its optimisers and frames: what is evicted would be computed again.
CACHE_GIGABYTES = 45.0


@dataclass(frozen=True)
class Recipe:
    """A way of adapting.

    Attributes:
        changes: of the settings of the adaptation.
        rates: learning rates to try; none leaves `params.yaml`'s rate and steps, and nothing is searched.
        steps: numbers of steps to try, None for those of the command line.
        each_number: whether every number of steps is reported at its best learning rate, and not the best.
        generation: changes of the settings of the generation.
        adapted: whether there is an adaptation; without, what the generation alone changes is seen.
    """

    changes: dict[str, Any]
    rates: tuple[float, ...] = ()
    steps: tuple[int, ...] | None = None
    each_number: bool = False
    generation: dict[str, Any] = field(default_factory=dict)
    adapted: bool = True


STOPPING = {"held_out": 2, "every": 10, "patience": 3, "draws": 4, "min_gain": 0.15, "refit": True}
VIEWS = {"flips": True, "rotation": 10.0, "crop": 0.8, "speeds": False}
MEDOID = {"num_samples": 3, "sample_choice": "medoid"}
OFFSET = {"name": "offset", "groups": 1}
# What all recipes but the published one and the default start from.
BASE = {
    "condition": "prefix",
    "scored": "hidden",
    "timesteps": "shifted",
    "stopping": None,
    "augmentation": None,
}


def recipe(method: dict[str, Any], *rates: float, **changes: Any) -> Recipe:
    """A method at several learning rates; with ``stopping`` among the changes, the steps are limits."""
    return Recipe(BASE | {"method": method} | changes, rates, (100, 200) if "stopping" in changes else None)


# By name, the most important first: the test takes them in this order.
RECIPES = {
    "published: lora, all": Recipe(
        BASE | {"method": LORA, "condition": "all", "timesteps": "uniform"}, (1e-4, 2e-4), each_number=True
    ),
    "the default": Recipe({}),
    "lora": recipe(LORA, 3e-4, 1e-3, 3e-3),
    "lora, chosen steps": recipe(LORA, 3e-4, 1e-3, 3e-3, stopping=STOPPING),
    "offset": recipe(OFFSET, 1e-2, 3e-2, 1e-1),
    "offset, chosen steps": recipe(OFFSET, 1e-2, 3e-2, 1e-1, stopping=STOPPING),
    "norms": recipe({"name": "norms"}, 3e-3, 1e-2, 3e-2),
    "full": recipe({"name": "full"}, 3e-5, 1e-4, 3e-4),
    "lora, none": recipe(LORA, 3e-4, 1e-3, 3e-3, condition="none"),
    "lora, all": recipe(LORA, 1e-5, 1e-4, 1e-3, condition="all"),
    "rank 32": recipe(LORA | {"rank": 32}, 1e-4, 3e-4, 1e-3),
    "rank 32, chosen steps": recipe(LORA | {"rank": 32}, 1e-4, 3e-4, 1e-3, stopping=STOPPING),
    "uniform times": recipe(LORA, 3e-4, 1e-3, 3e-3, timesteps="uniform"),
    "logit-normal times": recipe(LORA, 3e-4, 1e-3, 3e-3, timesteps="logit_normal"),
    "stratified times": recipe(LORA, 3e-4, 1e-3, 3e-3, timesteps="stratified"),
    "other views": recipe(LORA, 3e-4, 1e-3, 3e-3, augmentation=VIEWS),
    "all frames count": recipe(LORA, 3e-4, 1e-3, 3e-3, scored="all"),
    "last 2 blocks": recipe(LORA | {"last_blocks": 2}, 3e-4, 1e-3, 3e-3),
    "attention and mlp": recipe(LORA | {"targets": ["attention", "mlp"]}, 1e-4, 3e-4, 1e-3),
    "dora": recipe(LORA | {"use_dora": True}, 3e-4, 1e-3, 3e-3),
    "pissa": recipe(LORA | {"init_lora_weights": "pissa"}, 3e-5, 1e-4, 3e-4),
    "offset of 4 groups": recipe(OFFSET | {"groups": 4}, 1e-2, 3e-2, 1e-1),
    "no adaptation, 3 samples, medoid": Recipe({}, generation=MEDOID, adapted=False),
    "3 samples, medoid": Recipe(BASE | {"method": LORA}, (3e-4, 1e-3, 3e-3), generation=MEDOID),
}
Point = tuple[float, int]


def main() -> None:
    """Run the recipes and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips-folder", type=Path, default=CLIPS)
    parser.add_argument("--encoded", type=Path, default=ENCODED, help="what it lacks is encoded first")
    parser.add_argument("--clips", type=int, help="of each split, the first of the manifest; all without it")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help="names, or their beginnings")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="numbers of steps to try")
    parser.add_argument("--processes", type=int, default=1, help="of all GPUs together, or one thread each")
    parser.add_argument("--minutes", type=float, default=np.inf, help="after which no test is begun")
    parser.add_argument("--output", type=Path, help="write the figures as JSON too")
    arguments = parser.parse_args()
    study = Study(arguments, time.monotonic() + 60 * arguments.minutes)
    with Pool(arguments.processes, study.params, arguments.clips_folder, arguments.encoded) as pool:
        study.encode(pool)
        study.search(pool)
        study.test(pool)
    print("\n".join(markdown(study.report)))


class Study:
    """All recipes on the clips of both splits.

    Args:
        arguments: of the command line.
        ends: when no test may be begun any more, by the monotonic clock.
    """

    def __init__(self, arguments: argparse.Namespace, ends: float):
        self.arguments = arguments
        self.ends = ends
        self.params = benchmark_params()
        self.recipes = {
            name: each for name, each in RECIPES.items() if name.startswith(tuple(arguments.recipes))
        }
        self.clips: dict[Split, list[Clip]] = {
            split: read_manifest(arguments.clips_folder, split)[: arguments.clips]
            for split in get_args(Split)
        }
        if not self.recipes or not all(self.clips.values()):
            raise UserError("there has to be a recipe, and a clip of each split")
        # Its files are hashed here once, before all processes ask for that.
        environment = LazyModel(self.params.model, self.params.cache.path).environment
        self.report: dict[str, Any] = {
            "device": environment["device"],
            "processes": arguments.processes,
            "model": str(self.params.model.path),
            "clips": {split: len(members) for split, members in self.clips.items()},
            "searched": {},
            "references": {},
            "recipes": {},
            "failed": {},
            "unfinished": list(self.recipes),
        }
        about = "{device}, {processes} processes, {model}: {clips}".format(**self.report)
        print(about, flush=True)

    def encode(self, pool: Pool) -> None:
        """Encode the clips that the folder of conditionings lacks."""
        folder = self.arguments.encoded
        folder.mkdir(parents=True, exist_ok=True)
        clips = [clip for members in self.clips.values() for clip in members]
        missing = [Encoding(clip) for clip in clips if not (folder / f"{clip.clip_id}.safetensors").exists()]
        for number, reason in pool.run(missing, "encode"):
            if reason:
                raise UserError(f"{missing[number].clip.clip_id}: {reason}")

    def search(self, pool: Pool) -> None:
        """Run all points of all recipes on the clips that choose, and note the means of their PSNR.

        A point at which a clip fails is out of the running.
        """
        tasks = [
            Trajectory(name, self.params_of(name, rate), clip, arms_of(self.steps_of(name)))
            for name, recipe in self.recipes.items()
            for rate in recipe.rates
            for clip in self.clips["search"]
        ]
        # The longest first, so that in the end no process waits for another's long one.
        tasks.sort(key=length_of, reverse=True)
        values: dict[str, dict[Point, list[float]]] = {name: {} for name in self.recipes}
        reasons: dict[str, str] = {}
        for number, outcomes in pool.run(tasks, "search"):
            task = tasks[number]
            rate = task.params.adaptation.learning_rate
            for arm, outcome in zip(task.arms, per_arm(outcomes, task), strict=True):
                psnr = outcome.metrics.summary["psnr"] if isinstance(outcome, ClipResult) else -np.inf
                values[task.name].setdefault((rate, arm["num_steps"]), []).append(psnr)
                if isinstance(outcome, str):
                    words = f"at {rate:g}, {arm['num_steps']} steps, {task.clip.clip_id}: {outcome}"
                    tqdm.write(f"{task.name}, {words}")
                    reasons[task.name] = words
        for name, points in values.items():
            means = {point: float(np.mean(each)) for point, each in sorted(points.items())}
            self.report["searched"][name] = [
                {"learning_rate": rate, "num_steps": steps, "psnr": mean if np.isfinite(mean) else None}
                for (rate, steps), mean in means.items()
            ]
            if means and not np.isfinite(list(means.values())).any():
                self.fail(name, reasons[name])
        self.write()

    def test(self, pool: Pool) -> None:
        """Run the chosen points, and no adaptation, on the clips that are reported, recipe by recipe."""
        clips = self.clips["test"]
        rows = {
            row: (name, point) for name in self.recipes for row, (name, point) in self.chosen(name).items()
        }
        self.report["unfinished"] = list(rows)
        tasks = [Trajectory(NO_ADAPTATION, self.params, clip, (None, LAST_FRAME)) for clip in clips]
        for row, (name, (rate, steps)) in rows.items():
            params = self.params_of(name, rate, steps)
            arms = arms_of([steps]) if RECIPES[name].adapted else [None]
            tasks += [Trajectory(row, params, clip, arms) for clip in clips]
        done: dict[str, list[list[ClipResult]]] = defaultdict(list)

        def wanted(task: Trajectory) -> bool:
            return time.monotonic() < self.ends and task.name not in self.report["failed"]

        for number, outcomes in pool.run(tasks, "test", wanted):
            task = tasks[number]
            outcomes = per_arm(outcomes, task)
            if reasons := [outcome for outcome in outcomes if isinstance(outcome, str)]:
                words = f"{task.clip.clip_id}: {reasons[0]}"
                tqdm.write(f"{task.name}, {words}")
                if task.name == NO_ADAPTATION:
                    raise UserError(f"{task.name}, {words}: there is nothing to compare with")
                self.fail(task.name, words)
                continue
            done[task.name].append(outcomes)
            if len(done[NO_ADAPTATION]) < len(clips):
                continue
            baseline, still = ([outcomes[arm] for outcomes in done[NO_ADAPTATION]] for arm in range(2))
            self.report["references"] = references({STILL: still, NO_ADAPTATION: baseline})
            for row, (name, point) in rows.items():
                if len(done[row]) == len(clips) and row in self.report["unfinished"]:
                    self.add(row, name, point, baseline, [outcomes[0] for outcomes in done[row]])
        found = self.report["recipes"]
        self.report["recipes"] = {row: found[row] for row in rows if row in found}
        self.write()

    def chosen(self, name: str) -> dict[str, tuple[str, Point]]:
        """The rows of a recipe in the table: the recipe, and its best point on the clips that choose."""
        recipe, adaptation = RECIPES[name], self.params_of(name).adaptation
        if not recipe.rates:
            return {name: (name, (adaptation.learning_rate, adaptation.num_steps))}
        found = {
            (each["learning_rate"], each["num_steps"]): each["psnr"]
            for each in self.report["searched"][name]
            if each["psnr"] is not None
        }
        if not found:
            return {}
        if not recipe.each_number:
            return {name: (name, max(found, key=found.__getitem__))}
        numbers = sorted({steps for _, steps in found})
        return {
            f"{name}, {number} steps": (
                name,
                max((point for point in found if point[1] == number), key=found.__getitem__),
            )
            for number in numbers
        }

    def add(self, row: str, recipe: str, point: Point, baseline: list, adapted: list) -> None:
        """Add a finished row to the report."""
        rate, steps = point
        rates, numbers = RECIPES[recipe].rates, self.steps_of(recipe)
        # Two rates have nothing between them.
        edges = [rate in (min(rates), max(rates))] if len(rates) > 2 else []
        if not RECIPES[recipe].each_number and len(numbers) > 1 and rates:
            edges.append(steps in (numbers[0], numbers[-1]))
        statistics = self.params.evaluation.bootstrap_samples, self.params.evaluation.seed
        self.report["recipes"][row] = {
            "learning_rate": rate if RECIPES[recipe].adapted else None,
            "num_steps": steps,
            "on the edge": any(edges),
            **figures(baseline, adapted, *statistics),
        }
        self.report["unfinished"].remove(row)
        self.write()

    def fail(self, name: str, reason: str) -> None:
        """List a recipe or a row of it as failed."""
        self.report["failed"].setdefault(name, reason)
        if name in self.report["unfinished"]:
            self.report["unfinished"].remove(name)
        self.write()

    def params_of(self, name: str, rate: float | None = None, steps: int | None = None) -> Params:
        """The settings of a recipe; without a number of steps, each that is tried leaves a snapshot."""
        recipe = RECIPES[name]
        numbers = self.steps_of(name) if steps is None else [steps]
        changes = recipe.changes | ({} if rate is None else {"learning_rate": rate, "num_steps": numbers[-1]})
        adaptation = self.params.adaptation.model_dump() | changes
        generation = self.params.generation.model_dump() | recipe.generation
        return self.params.model_copy(
            update={
                "adaptation": AdaptationParams.model_validate(adaptation),
                "generation": GenerationParams.model_validate(generation),
                "search": self.params.search.model_copy(update={"space": {"num_steps": numbers}}),
            }
        )

    def steps_of(self, name: str) -> list[int]:
        """The numbers of steps that a recipe is tried with."""
        recipe = RECIPES[name]
        if not recipe.rates:
            return [self.params.adaptation.num_steps]
        return sorted(recipe.steps or self.arguments.steps)

    def write(self) -> None:
        """Write what is known."""
        if self.arguments.output:
            write_text(self.arguments.output, json.dumps(self.report, indent=1) + "\n")


def benchmark_params() -> Params:
    """The settings of `params.yaml` but for what this benchmark has no use for."""
    params = load_stage_params()
    return params.model_copy(
        update={
            # Accelerated blocks refuse the methods that change weights (norms, full, pissa), and compiling
            # them in every process costs more minutes than it saves.
            "model": params.model.model_copy(update={"accelerate": False}),
            # Neither distance is reported, and looking for its weights takes a network.
            "evaluation": params.evaluation.model_copy(update={"lpips": "untrained", "fvd": "off"}),
            "cache": params.cache.model_copy(update={"max_gigabytes": CACHE_GIGABYTES}),
        }
    )


def length_of(task: Trajectory) -> int:
    """The steps of a task, of which there are twice as many where a clip is adapted again after a choice."""
    steps = task.arms[-1]["num_steps"]
    return 2 * steps if task.params.adaptation.stopping else steps


def arms_of(numbers: Sequence[int]) -> list[dict[str, int]]:
    """The arm of each number of steps."""
    return [{"num_steps": number} for number in numbers]


def per_arm(outcomes: list[ClipResult | str] | str, task: Trajectory) -> list[ClipResult | str]:
    """What came of each arm; where the whole task failed, its reason for each."""
    return [outcomes] * len(task.arms) if isinstance(outcomes, str) else outcomes


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
