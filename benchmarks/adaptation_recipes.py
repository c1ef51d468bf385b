"""Which way of adapting helps: methods and objectives at their best, on clips that did not choose it.

Every recipe is run at each of its learning rates and numbers of steps on the clips of the split `search`. The
point with the best PSNR there is run on the clips of the split `test`, against no adaptation. The settings of
generation, model and metrics are those of `params.yaml`, and the clips those of `outputs/clips`. Work that
is finished stays in the cache: run the command again after a kill, and it goes on. From the repository root,
after `dvc repro encode` or `dvc pull`:

    python benchmarks/adaptation_recipes.py --output recipes.json
    python benchmarks/adaptation_recipes.py --clips 1 --recipes offset --steps 1  # smoke test of this script
"""

import argparse
import json
import platform
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lora_tta.config import AdaptationParams, ModelParams, Params
from lora_tta.errors import UserError
from lora_tta.evaluation.comparison import compare
from lora_tta.experiment.lazy_model import LazyModel
from lora_tta.experiment.runner import ClipRunner
from lora_tta.files import write_text
from lora_tta.records.clips import Clip, Split, read_manifest
from lora_tta.records.results import ClipResult
from lora_tta.stages.paths import CLIPS, ENCODED
from lora_tta.stages.stage_params import load_measuring_params

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
# By name: changed settings of the adaptation, and the learning rates to try.
RECIPES: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "published: lora, all": ({"method": LORA, "condition": "all"}, (1e-4, 2e-4)),
    "lora, none": ({"method": LORA, "condition": "none"}, (3e-4, 1e-3)),
    "lora, prefix": ({"method": LORA}, (3e-4, 1e-3, 3e-3)),
    "lora, prefix, all frames count": ({"method": LORA, "scored": "all"}, (1e-3, 3e-3)),
    "lora, prefix, stratified times": ({"method": LORA, "timesteps": "stratified"}, (1e-3, 3e-3)),
    "lora, prefix, logit-normal times": ({"method": LORA, "timesteps": "logit_normal"}, (1e-3, 3e-3)),
    "dora, prefix": ({"method": LORA | {"use_dora": True}}, (1e-3, 3e-3)),
    "lora in the last 2 blocks, prefix": ({"method": LORA | {"last_blocks": 2}}, (1e-3, 3e-3)),
    "offset, prefix": ({"method": {"name": "offset", "groups": 1}}, (3e-3, 1e-2, 3e-2)),
    "offset of 4 groups, prefix": ({"method": {"name": "offset", "groups": 4}}, (3e-3, 1e-2, 3e-2)),
    "norms, prefix": ({"method": {"name": "norms"}}, (3e-3, 1e-2, 3e-2)),
    "full, prefix": ({"method": {"name": "full"}}, (3e-5, 1e-4, 3e-4)),
}


def main() -> None:
    """Run the recipes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, help="of each split, the first of the manifest; all without it")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help="names, or their beginnings")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="numbers of steps to try")
    parser.add_argument("--output", type=Path, help="write the figures as JSON too")
    arguments = parser.parse_args()
    params = load_measuring_params()
    chosen = [name for name in RECIPES if name.startswith(tuple(arguments.recipes))]
    splits: dict[Split, list[Clip]] = {
        split: read_manifest(CLIPS, split)[: arguments.clips] for split in ("search", "test")
    }
    table: dict[str, dict[str, Any]] = {}
    print(
        f"{platform.processor() or platform.machine()}, {params.model.path}: {lines_about(splits)}",
        flush=True,
    )
    for name in tqdm(chosen, "recipes", unit="recipe"):
        try:
            table[name] = run(name, params, splits, arguments.steps)
        except UserError as error:
            print(f"{name}: {error}", flush=True)
            continue
        if arguments.output:
            write_text(arguments.output, json.dumps(table, indent=1) + "\n")
    print("\n".join(markdown(table)))


def lines_about(splits: dict[Split, list[Clip]]) -> str:
    """How many clips choose, and how many are reported."""
    return f"{len(splits['search'])} clips choose, {len(splits['test'])} others are reported"


def run(name: str, params: Params, splits: dict[Split, list[Clip]], steps: list[int]) -> dict[str, Any]:
    """The recipe's best point on the clips that choose, and what it does to the others."""
    changes, rates = RECIPES[name]
    tried = {
        (rate, number): results(params, changes, rate, number, steps, splits["search"])
        for rate in rates
        for number in sorted(steps)
    }
    rate, number = max(tried, key=lambda point: np.mean([of.metrics.summary["psnr"] for of in tried[point]]))
    adapted = results(params, changes, rate, number, steps, splits["test"])
    runner = runner_of(params)
    baseline = [runner.run(clip, None).result for clip in splits["test"]]
    statistics = params.evaluation.bootstrap_samples, params.evaluation.seed
    comparisons = compare(baseline, adapted, *statistics)
    return {
        "learning_rate": rate,
        "num_steps": number,
        "on the edge": rate in (min(rates), max(rates)) or number in (min(steps), max(steps)),
        "seconds": float(np.mean([result.adapt_seconds or 0.0 for result in adapted])),
        **{metric: asdict(comparison) for metric, comparison in comparisons.items()},
    }


def results(
    params: Params, changes: dict, rate: float, number: int, steps: list[int], clips: list[Clip]
) -> list[ClipResult]:
    """Clips adapted by a recipe; one trajectory serves all numbers of steps."""
    adaptation = params.adaptation.model_dump() | changes | {"learning_rate": rate, "num_steps": number}
    search = params.search.model_copy(update={"space": {"num_steps": list(steps)}})
    update = {"adaptation": AdaptationParams.model_validate(adaptation), "search": search}
    runner = runner_of(params.model_copy(update=update))
    try:
        return [runner.run(clip, {"num_steps": number}).result for clip in clips]
    finally:
        runner._methods.clear()


def runner_of(params: Params) -> ClipRunner:
    """A runner with the one model that all have."""
    runner = ClipRunner(params, CLIPS, ENCODED)
    runner.model = the_model(params.model, params.cache.path)
    return runner


@cache
def the_model(params: ModelParams, folder: Path) -> LazyModel:
    """Loaded once; each runner takes its method out when it is done."""
    return LazyModel(params, folder)


def markdown(table: dict[str, dict[str, Any]]) -> list[str]:
    """A row for each recipe."""
    lines = [
        "| recipe | learning rate, steps | PSNR, dB | 95 % interval | improved | motion error | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in table.items():
        psnr, motion = row["psnr"], row["motion_error"]
        point = f"{row['learning_rate']:g}, {row['num_steps']}{' (edge)' if row['on the edge'] else ''}"
        interval = f"{psnr['interval_low']:+.2f} to {psnr['interval_high']:+.2f}"
        lines.append(
            f"| {name} | {point} | {psnr['difference']:+.2f} | {interval} | {psnr['share_improved']:.0%} | "
            f"{motion['difference']:+.3f} | {row['seconds']:.1f} |"
        )
    return lines


if __name__ == "__main__":
    main()
