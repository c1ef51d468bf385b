"""The figures and tables of benchmarks/adaptation_recipes.py, from the results of clips."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lora_tta.embedded.synthetic import HELD_OUT_CLASSES, TRAINING_CLASSES
from lora_tta.evaluation.statistics import paired_comparison
from lora_tta.records.metric_table import metric
from lora_tta.records.results import ClipResult, pair_results

# Which of its classes the embedded model was trained on; no other model knows any of them.
GROUPS: dict[str, Callable[[str], bool]] = {
    "classes trained on": lambda name: name in TRAINING_CLASSES,
    "classes never trained on": lambda name: name in HELD_OUT_CLASSES,
    "real footage": lambda name: name not in (*TRAINING_CLASSES, *HELD_OUT_CLASSES),
}
ALL = "all"
METRICS = ("psnr", "ssim", "motion_error")

Results = Sequence[ClipResult]


def by_group(results: Results) -> dict[str, list[ClipResult]]:
    """All results, and those of each group that has any."""
    groups = {name: [each for each in results if of(each.class_name)] for name, of in GROUPS.items()}
    return {ALL: list(results)} | {name: members for name, members in groups.items() if members}


def figures(baseline: Results, adapted: Results, samples: int, seed: int) -> dict[str, Any]:
    """Adapted against baseline: all metrics over all clips, PSNR by group, each clip's values and PSNR gain.

    Args:
        baseline: without adaptation.
        adapted: the same clips.
        samples: of the bootstrap.
        seed: of the bootstrap.
    """
    # A chosen sample is compared with the one that there is without a choice.
    pairs = pair_results(baseline, [replace(result, candidates=()) for result in adapted])
    befores, afters = (list(side) for side in zip(*pairs, strict=True))

    def compared(name: str, before: Results, after: Results) -> dict[str, Any]:
        first, second = (np.array([each.metrics.summary[name] for each in side]) for side in (before, after))
        direction = metric(name).direction
        worse = second < first if direction == "maximize" else second > first
        comparison = paired_comparison(first, second, direction, samples, seed).as_json()
        return comparison | {"share_worse": float(worse.mean())}

    groups = zip(by_group(befores).items(), by_group(afters).values(), strict=True)
    return {
        "seconds": float(np.mean([result.adapt_seconds or 0.0 for result in afters])),
        "steps": float(np.mean([len(result.losses) for result in afters])),
        "psnr": {group: compared("psnr", before, after) for (group, before), after in groups},
        **{name: compared(name, befores, afters) for name in METRICS[1:]},
        "clips": {
            after.clip_id: {"gain": after.metrics.summary["psnr"] - before.metrics.summary["psnr"]}
            | {name: after.metrics.summary[name] for name in METRICS}
            for before, after in zip(befores, afters, strict=True)
        },
    }


def references(arms: Mapping[str, Results]) -> dict[str, dict[str, dict[str, float]]]:
    """The means of each arm by group: arm, group, metric."""
    return {
        arm: {
            group: {"clips": len(members)}
            | {name: float(np.mean([each.metrics.summary[name] for each in members])) for name in METRICS}
            for group, members in by_group(results).items()
        }
        for arm, results in arms.items()
    }


def markdown(report: Mapping[str, Any]) -> list[str]:
    """The tables of the references and of the recipes, and what is in none."""
    lines: list[str] = []
    groups: list[str] = []
    for arm, by_name in report["references"].items():
        if not lines:
            groups = list(by_name)
            titles = [f"{group} ({by_name[group]['clips']})" for group in groups]
            lines += row("PSNR in dB and SSIM", *titles), row(*["---"] * (1 + len(groups)))
        lines.append(row(arm, *(f"{each['psnr']:.2f}, {each['ssim']:.3f}" for each in by_name.values())))
    if report["recipes"]:
        heads = [*(f"PSNR, {group}" for group in groups), "made worse", "SSIM", "motion error", "seconds"]
        lines += "", row("recipe", "learning rate, steps", *heads), row(*["---"] * (2 + len(heads)))
    for name, found in report["recipes"].items():
        lines.append(
            row(
                name,
                point_in_words(found),
                *(difference(found["psnr"][group]) for group in groups),
                f"{found['psnr'][ALL]['share_worse']:.0%}",
                f"{found['ssim']['difference']:+.4f}",
                f"{found['motion_error']['difference']:+.3f}",
                f"{found['seconds']:.1f}",
            )
        )
    lines += ["", *(f"Failed: {name}: {reason}" for name, reason in report["failed"].items())]
    lines += [f"Unfinished: {', '.join(report['unfinished'])}"] if report["unfinished"] else []
    return lines


def row(*cells: str) -> str:
    """A row of a table in markdown."""
    return f"| {' | '.join(cells)} |"


def point_in_words(found: Mapping[str, Any]) -> str:
    """Learning rate and steps, with what the steps came to where each clip has its own."""
    if found["learning_rate"] is None:
        return "-"
    edge = " (edge)" if found["on the edge"] else ""
    chosen = f" ({found['steps']:.0f} on average)" if found["steps"] != found["num_steps"] else ""
    return f"{found['learning_rate']:g}, {found['num_steps']}{chosen}{edge}"


def difference(compared: Mapping[str, Any]) -> str:
    """A difference with its interval, which one clip has none of."""
    low, high = compared["interval_low"], compared["interval_high"]
    interval = "" if low is None else f" ({low:+.2f} to {high:+.2f})"
    return f"{compared['difference']:+.2f}{interval}"
