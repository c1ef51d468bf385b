"""Per-clip results on disk, and the comparison of two sets of them.

A folder holds three tables, keyed by ``clip_id``:

- ``clips.csv``: one row a clip; ``clip_id``, ``class_name``, the metrics, ``adapt_seconds``,
  ``generate_seconds``, ``peak_memory_bytes``.
- ``frames.csv``: one row a clip and frame; ``clip_id``, ``frame`` (34-65), the metrics. Temporal
  consistency compares a frame with the one before it, and is empty for frame 34.
- ``losses.csv``: one row a clip and adaptation step; ``clip_id``, ``step`` (from 1), ``loss``. Empty
  without adaptation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lora_tta.errors import UserError
from lora_tta.evaluation.statistics import PairedComparison, paired_comparison
from lora_tta.files import write_csv
from lora_tta.records.clips import CONDITIONING_FRAMES
from lora_tta.records.metric_table import METRIC_DIRECTIONS, ClipMetrics

COST_NAMES = ("adapt_seconds_per_clip", "generate_seconds_per_clip", "peak_memory_mib")
COST_COLUMNS = ("adapt_seconds", "generate_seconds", "peak_memory_bytes")


@dataclass(frozen=True)
class ClipResult:
    """What is known of one clip after its continuation was generated and measured.

    Attributes:
        clip_id: unique within a set of results.
        class_name: the clip's class, or the name of its folder.
        metrics: on frames 34-65.
        losses: training loss at every adaptation step; empty without adaptation.
        adapt_seconds: 0 without adaptation.
        generate_seconds: sampling and decoding.
        peak_memory_bytes: the highest of adaptation and generation.
    """

    clip_id: str
    class_name: str
    metrics: ClipMetrics
    losses: tuple[float, ...]
    adapt_seconds: float
    generate_seconds: float
    peak_memory_bytes: int


def metric_names(results: Sequence[ClipResult]) -> list[str]:
    """The metrics of a set of results, in the order of ``METRIC_DIRECTIONS``.

    Raises:
        UserError: there is no clip, or clips were measured with different metrics.
    """
    measured = {tuple(sorted(result.metrics.summary)) for result in results}
    if not measured:
        raise UserError("there are no clips to evaluate: check preprocess.num_clips and data.root")
    if len(measured) > 1:
        raise UserError(
            f"clips were measured with different metrics ({' and '.join(map(', '.join, sorted(measured)))}), "
            "which are never mixed: measure all of them anew with one evaluation.lpips"
        )
    (names,) = measured
    return [name for name in METRIC_DIRECTIONS if name in names]


def clip_table(results: Sequence[ClipResult]) -> pd.DataFrame:
    """One row a clip, with the columns of ``clips.csv``."""
    names = metric_names(results)
    return pd.DataFrame(
        [
            {"clip_id": result.clip_id, "class_name": result.class_name}
            | {name: result.metrics.summary[name] for name in names}
            | {column: getattr(result, column) for column in COST_COLUMNS}
            for result in results
        ]
    )


def frame_table(results: Sequence[ClipResult]) -> pd.DataFrame:
    """One row a clip and frame, with the columns of ``frames.csv``."""
    names = metric_names(results)
    return pd.concat([_frames_of(result, names) for result in results], ignore_index=True)


def loss_table(results: Sequence[ClipResult]) -> pd.DataFrame:
    """One row a clip and adaptation step, with the columns of ``losses.csv``."""
    rows = [
        (result.clip_id, step, loss) for result in results for step, loss in enumerate(result.losses, start=1)
    ]
    return pd.DataFrame(rows, columns=["clip_id", "step", "loss"]).astype({"step": int, "loss": float})


def mean_metrics(results: Sequence[ClipResult]) -> dict[str, float]:
    """The mean over clips of every metric."""
    return {
        name: float(np.mean([result.metrics.summary[name] for result in results]))
        for name in metric_names(results)
    }


def mean_costs(results: Sequence[ClipResult]) -> dict[str, float]:
    """Mean seconds per clip and the highest peak memory in MiB, under :data:`COST_NAMES`."""
    values = (
        float(np.mean([result.adapt_seconds for result in results])),
        float(np.mean([result.generate_seconds for result in results])),
        max(result.peak_memory_bytes for result in results) / 2**20,
    )
    return dict(zip(COST_NAMES, values, strict=True))


def write_results(folder: Path, results: Sequence[ClipResult]) -> None:
    """Write ``clips.csv``, ``frames.csv`` and ``losses.csv``.

    Raises:
        UserError: as :func:`metric_names`.
    """
    write_csv(folder / "frames.csv", frame_table(results))
    write_csv(folder / "losses.csv", loss_table(results))
    write_csv(folder / "clips.csv", clip_table(results))


def read_results(folder: Path) -> list[ClipResult]:
    """Read what :func:`write_results` wrote, clips in the same order.

    Raises:
        UserError: a table is missing.
    """
    clips, frames, losses = (_read_table(folder / f"{name}.csv") for name in ("clips", "frames", "losses"))
    names = [name for name in METRIC_DIRECTIONS if name in clips]
    frames_by_clip = dict(list(frames.groupby("clip_id")))
    losses_by_clip = dict(list(losses.groupby("clip_id")["loss"]))
    return [
        ClipResult(
            clip_id=row["clip_id"],
            class_name=row["class_name"],
            metrics=ClipMetrics(
                per_frame={
                    name: frames_by_clip[row["clip_id"]][name].dropna().to_numpy(np.float32) for name in names
                },
                summary={name: float(row[name]) for name in names},
            ),
            losses=tuple(losses_by_clip[row["clip_id"]]) if row["clip_id"] in losses_by_clip else (),
            adapt_seconds=float(row["adapt_seconds"]),
            generate_seconds=float(row["generate_seconds"]),
            peak_memory_bytes=int(row["peak_memory_bytes"]),
        )
        for row in clips.to_dict("records")
    ]


def pair_results(
    baseline: Sequence[ClipResult], adapted: Sequence[ClipResult]
) -> list[tuple[ClipResult, ClipResult]]:
    """Both results of every clip, in the order of ``baseline``.

    Raises:
        UserError: the two sides hold different clips, or were measured with different metrics.
    """
    metric_names([*baseline, *adapted])
    by_id = {result.clip_id: result for result in adapted}
    one_sided = {result.clip_id for result in baseline} ^ by_id.keys()
    if one_sided:
        examples = ", ".join(sorted(one_sided)[:3])
        raise UserError(
            f"baseline and adapted results hold different clips ({len(one_sided)} on one side only, "
            f"such as {examples}): run both stages on the same clips"
        )
    return [(result, by_id[result.clip_id]) for result in baseline]


def compare(
    baseline: Sequence[ClipResult], adapted: Sequence[ClipResult], samples: int, seed: int
) -> dict[str, PairedComparison]:
    """Paired comparison of every metric.

    Args:
        baseline: results without adaptation.
        adapted: results of the same clips with adaptation, in any order.
        samples: number of bootstrap resamples.
        seed: of the resampling.

    Raises:
        UserError: as :func:`pair_results`; LPIPS and its untrained stand-in are never compared.
    """
    pairs = pair_results(baseline, adapted)
    return {
        name: paired_comparison(
            *(
                np.array([result.metrics.summary[name] for result in side])
                for side in zip(*pairs, strict=True)
            ),
            METRIC_DIRECTIONS[name],
            samples,
            seed,
        )
        for name in metric_names(baseline)
    }


def _frames_of(result: ClipResult, names: list[str]) -> pd.DataFrame:
    num_frames = len(result.metrics.per_frame["psnr"])
    columns = {
        name: np.concatenate(
            [
                np.full(num_frames - len(result.metrics.per_frame[name]), np.nan),
                result.metrics.per_frame[name],
            ]
        )
        for name in names
    }
    frames = CONDITIONING_FRAMES + 1 + np.arange(num_frames)
    return pd.DataFrame({"clip_id": result.clip_id, "frame": frames, **columns})


def _read_table(path: Path) -> pd.DataFrame:
    # An id such as 007 or NA stays as it is; only a metric can be missing.
    try:
        return pd.read_csv(
            path,
            dtype={"clip_id": str, "class_name": str},
            keep_default_na=False,
            na_values={name: [""] for name in METRIC_DIRECTIONS},
        )
    except FileNotFoundError:
        raise UserError(f"{path} not found: run the stage that writes it (dvc repro)") from None
