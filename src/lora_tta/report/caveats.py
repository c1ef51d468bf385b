"""The answer in words, and what limits it: sentences that the report shows before its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lora_tta.evaluation.statistics import PairedComparison
from lora_tta.records.metric_table import metric
from lora_tta.records.point import Point, describe

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
    best: Mapping[str, Any], trials: pd.DataFrame, space: Mapping[str, Sequence[object]], sampler: str
) -> list[str]:
    """Sentences on a best point at the edge of the space, a sampler that never learned, and failed trials.

    Args:
        best: the content of ``best.json``.
        trials: one row a trial, of ``trials.csv``.
        space: the choices of each setting.
        sampler: its name in the settings.
    """
    caveats = []
    if edge := _at_the_edge(best["point"], space):
        caveats.append(
            f"The best point lies on the edge of the search space ({', '.join(edge)}). A better one may lie "
            "beyond it."
        )
    if 0 < best["trials"] <= best["random_start"]:
        caveats.append(
            f"The sampler {sampler} draws its first {best['random_start']} trials at random, and the study "
            f"has {best['trials']}. The best point is the best of random ones."
        )
    if best["failed"]:
        first = trials[trials["state"] == "fail"].iloc[0]
        caveats.append(
            f"{best['failed']} of {best['trials']} trials failed and could not be chosen, first trial "
            f"{first['trial']}: {first['failure']}."
        )
    return caveats


def _at_the_edge(point: Point, space: Mapping[str, Sequence[object]]) -> list[str]:
    """The settings of a point that are the least or the largest of several numbers to choose from."""
    edge = []
    for name, value in point.items():
        choices = [choice for choice in space.get(name, ()) if isinstance(choice, int | float)]
        if len(choices) > 1 and value in (min(choices), max(choices)):
            which = "least" if value == min(choices) else "largest"
            edge.append(f"{describe({name: value})} is the {which} of {len(choices)}")
    return edge
