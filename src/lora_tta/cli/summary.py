"""``lora-tta summary``: the comparison of the last run in a few lines."""

import argparse
import json
from collections.abc import Collection
from typing import Any

from lora_tta.errors import UserError
from lora_tta.records.metric_table import COSTS, metric
from lora_tta.records.point import describe
from lora_tta.records.yardsticks import YARDSTICKS, Yardstick
from lora_tta.stages.paths import (
    ADAPT,
    ADAPT_COSTS,
    BASELINE,
    BASELINE_COSTS,
    BEST,
    EVALUATE,
    METRICS,
    REPORT,
    SEARCH_CLIPS_METRICS,
    YARDSTICK_METRICS,
)


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("summary", help="the comparison of the last run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the comparison table of the last run and the place of its report.

    Raises:
        UserError: there is no finished run.
    """
    if not METRICS.exists():
        raise UserError(f"{METRICS} not found: run `dvc repro` first")
    comparisons, best = json.loads(METRICS.read_text()), json.loads(BEST.read_text())
    # Reading tables takes pandas, which a command line without arguments does without.
    from lora_tta.experiment.failures import read_failures

    clips, failures = (
        next(iter(comparisons.values()))["clips"],
        read_failures(BASELINE) | read_failures(ADAPT),
    )
    left_out = f" ({len(failures)} failed and left out)" if failures else ""
    print(f"{clips} test clips{left_out}, best of {best['trials']} trials: {describe(best['point'])}")
    if best.get("feasible") == 0:
        print("no trial was feasible: each broke one of search.constraints, the best one too")
    print()
    header = f"{'generated frames':<27}{'baseline':>10}{'adapted':>10}{'difference':>12}  "
    print(f"{header}{'95 % interval':<20}improved")
    for name, values in comparisons.items():
        interval = (
            "-"
            if values["interval_low"] is None
            else f"{values['interval_low']:+.4f} .. {values['interval_high']:+.4f}"
        )
        print(
            f"{metric(name).title:<27}{values['baseline']:>10.4f}{values['adapted']:>10.4f}"
            f"{values['difference']:>+12.4f}  {interval:<20}{values['share_improved']:>7.0%}"
        )
    print()
    for row, means in _yardsticks():
        print(
            f"{row.title}: {', '.join(f'{metric(name).label} {value:.4f}' for name, value in means.items())}"
        )
    searched = json.loads(SEARCH_CLIPS_METRICS.read_text())
    if searched:
        count = next(iter(searched.values()))["clips"]
        gains = ", ".join(
            f"{metric(name).label} {values['difference']:+.4f}" for name, values in searched.items()
        )
        print(f"\non the {count} clips that chose the settings: {gains}")
    _print_costs(failures)
    print(f"\nreport: {REPORT}\nplots:  {EVALUATE}, or `dvc plots show`\ncompare trials: make ui")


def _yardsticks() -> list[tuple[Yardstick, dict[str, float]]]:
    """Means of the metrics for each yardstick, over the test clips."""
    by_metric = json.loads(YARDSTICK_METRICS.read_text())
    return [(row, {name: means[row.name] for name, means in by_metric.items()}) for row in YARDSTICKS]


def _print_costs(failures: Collection[str]) -> None:
    from lora_tta.records.results import mean_costs, read_results

    baseline, adapted = (
        mean_costs([result for result in read_results(folder, costs) if result.clip_id not in failures])
        for folder, costs in ((BASELINE, BASELINE_COSTS), (ADAPT, ADAPT_COSTS))
    )
    for cost in COSTS:
        if cost.name in baseline and cost.name in adapted:
            label = f"{cost.label} ({cost.unit})"
            print(f"{label:<27}{baseline[cost.name]:>10.2f}{adapted[cost.name]:>10.2f}")
