"""Data files for ``dvc plots``: CSV tables whose columns fit DVC's built-in templates.

Every metric has a file of its own, so that a folder is one entry in the ``plots`` section of ``dvc.yaml``
whichever perceptual distance was measured, and revisions with different ones are never drawn in one chart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from lora_tta.files import write_csv
from lora_tta.records.metric_table import metric
from lora_tta.records.results import ClipResult, frame_table, loss_table, metric_names, pair_results
from lora_tta.records.yardsticks import LAST_FRAME, RECONSTRUCTION

# The yardsticks that have a curve beside the arms; the others' lie on the baseline's.
CURVES = (LAST_FRAME, RECONSTRUCTION)


def frame_curve(
    baseline: Sequence[ClipResult],
    adapted: Sequence[ClipResult],
    yardsticks: Mapping[str, Sequence[ClipResult]],
    name: str,
) -> pd.DataFrame:
    """Means over clips of one metric: ``frame``, ``baseline``, ``adapted`` and the names of ``CURVES``."""
    sides = {"baseline": baseline, "adapted": adapted}
    sides |= {yardstick: yardsticks[yardstick] for yardstick in CURVES if yardstick in yardsticks}
    curves = {side: frame_table(results).groupby("frame")[name].mean() for side, results in sides.items()}
    return pd.DataFrame(curves).dropna().reset_index()


def clip_differences(
    baseline: Sequence[ClipResult], adapted: Sequence[ClipResult], name: str
) -> pd.DataFrame:
    """One metric of every clip: ``clip_id``, ``class_name``, ``baseline``, ``adapted``, ``difference``."""
    rows = [
        (before.clip_id, before.class_name, before.metrics.summary[name], after.metrics.summary[name])
        for before, after in pair_results(baseline, adapted)
    ]
    table = pd.DataFrame(rows, columns=["clip_id", "class_name", "baseline", "adapted"])
    return table.assign(difference=table["adapted"] - table["baseline"])


def loss_curve(adapted: Sequence[ClipResult]) -> pd.DataFrame:
    """Loss over the clips that reached a step: ``step``, ``mean``, ``quartile_1``, ``quartile_3``."""
    losses = loss_table(adapted).groupby("step")["loss"]
    return pd.DataFrame(
        {"mean": losses.mean(), "quartile_1": losses.quantile(0.25), "quartile_3": losses.quantile(0.75)}
    ).reset_index()


def write_plots(
    folder: Path,
    baseline: Sequence[ClipResult],
    adapted: Sequence[ClipResult],
    yardsticks: Mapping[str, Sequence[ClipResult]],
    trials: pd.DataFrame | None,
) -> None:
    """Write ``frames/<metric>.csv``, ``clips/<metric>.csv``, ``loss.csv`` and, given trials, ``trials.csv``.

    Raises:
        UserError: the two sides hold different clips or metrics.
    """
    for name in metric_names([*baseline, *adapted]):
        write_csv(folder / "clips" / f"{name}.csv", clip_differences(baseline, adapted, name))
        if metric(name).per_frame:
            write_csv(folder / "frames" / f"{name}.csv", frame_curve(baseline, adapted, yardsticks, name))
    write_csv(folder / "loss.csv", loss_curve(adapted))
    if trials is not None:
        write_csv(folder / "trials.csv", trials)
