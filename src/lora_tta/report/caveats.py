"""The answer in words, and what limits it: sentences that the report shows before its numbers."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lora_tta.evaluation.statistics import PairedComparison
from lora_tta.records.metric_table import metric
from lora_tta.records.point import Point, describe
from lora_tta.records.space import Choices, Dimensions, Range

# The part of a range, from either end, in which the best point counts as being on the edge.
NEAR_AN_END = 0.05
# By the verdict on the primary metric.
ANSWERS = {
    "better": "Adaptation helps on held-out clips.",
    "worse": "Adaptation harms on held-out clips.",
    "unclear": "These clips do not show whether adaptation helps.",
    "too few clips": "There are too few held-out clips to say whether adaptation helps.",
}


def conclusion(comparisons: Mapping[str, PairedComparison], primary: str) -> list[str]:
    """Whether adaptation helped, by the primary metric, and which of the others agree and which do not."""
    sentences = [ANSWERS[comparisons[primary].verdict]]
    for verdict in ("better", "worse"):
        labels = [
            metric(name).label
            for name, comparison in comparisons.items()
            if name != primary and comparison.verdict == verdict
        ]
        if labels:
            names = " and ".join(filter(None, [", ".join(labels[:-1]), labels[-1]]))
            sentences.append(f"{names} {'gets' if len(labels) == 1 else 'get'} {verdict}.")
    return sentences


def search_caveats(
    best: Mapping[str, Any], trials: pd.DataFrame, dimensions: Dimensions, sampler: str
) -> list[str]:
    """Sentences on a best point at the edge of the space, a sampler that never learned, and failed trials.

    Args:
        best: the content of ``best.json``.
        trials: one row a trial, of ``trials.csv``.
        dimensions: of the search space.
        sampler: its name in the settings.
    """
    caveats = []
    if edge := _at_the_edge(best["point"], dimensions):
        caveats.append(
            f"The best point lies on the edge of the search space ({', '.join(edge)}). A better one may lie "
            "beyond it."
        )
    if 0 < best["trials"] <= best["random_start"]:
        caveats.append(
            f"The sampler {sampler} draws its first {best['random_start']} trials at random, and the study "
            f"has {best['trials']}. The best point is the best of random ones."
        )
    if screening := best.get("screening"):
        caveats.append(
            f"The {best['trials']} points were screened on {screening['clips']} clips with "
            f"{screening['num_inference_steps']} sampling steps. The best {screening['confirmed']} were "
            f"tried again on {screening['confirmed_on']} clips, and the best point is the best of these."
        )
    if best["failed"]:
        first = trials[trials["state"] == "fail"].iloc[0]
        caveats.append(
            f"{best['failed']} of {best['trials']} trials failed and could not be chosen, first trial "
            f"{first['trial']}: {first['failure']}."
        )
    return caveats


def _at_the_edge(point: Point, dimensions: Dimensions) -> list[str]:
    """The settings that are the least or the largest of several numbers, or next to the end of a range."""
    edge = []
    for name, value in point.items():
        dimension = dimensions.get(name)
        if isinstance(dimension, Choices):
            choices = [choice for choice in dimension.choices if isinstance(choice, int | float)]
            if len(choices) > 1 and value in (min(choices), max(choices)):
                which = "least" if value == min(choices) else "largest"
                edge.append(f"{describe({name: value})} is the {which} of {len(choices)}")
        elif isinstance(dimension, Range) and isinstance(value, int | float):
            place = _place(value, dimension)
            if not NEAR_AN_END < place < 1 - NEAR_AN_END:
                end = dimension.low if place < 0.5 else dimension.high
                edge.append(f"{describe({name: value})} is at the end {describe({name: end})} of its range")
    return edge


def _place(value: float, dimension: Range) -> float:
    """Where in the range the value lies, 0 at its low end and 1 at its high one."""
    low, high = dimension.low, dimension.high
    if dimension.log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)
