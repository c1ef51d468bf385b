"""Per-clip results on disk.

A folder holds these tables, keyed by ``clip_id``:

- ``clips.csv``: one row a clip; ``clip_id``, ``class_name``, ``split``, ``work`` (names the computation),
  ``frames_sha256`` (of the clip), ``seed`` (of the starting noise), the metrics.
- ``frames.csv``: one row a clip and generated frame; ``clip_id``, ``frame`` (counted from 1 in the whole
  clip), the metrics that have a value a frame. A metric that compares a frame with the one before it is empty
  for the first.
- ``losses.csv``: one row a clip and adaptation step; ``clip_id``, ``step`` (from 1), ``loss``. Empty
  without adaptation.
- ``samples.csv``, where clips have several samples: one row a clip and sample; ``clip_id``, ``sample`` (from
  1), the metrics. The other tables then hold means over samples.
- ``candidates.csv``, where one of several samples was chosen: the same columns. The other tables then hold
  the chosen one.
- ``features.npz``, where FVD is measured: see :mod:`lora_tta.records.features`.

Costs differ each time that they are measured. They lie in a table of their own, which DVC does not track:
``clip_id``, ``work``, ``device``, ``adapt_seconds``, ``generate_seconds``, ``peak_memory_bytes``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from lora_tta.errors import UserError
from lora_tta.files import write_csv
from lora_tta.records.clips import Split
from lora_tta.records.features import read_features, write_features
from lora_tta.records.metric_table import COSTS, METRICS, ClipMetrics, in_table_order, metric

CLIPS_TABLE = "clips.csv"
CLIP_COLUMNS = ("clip_id", "class_name", "split", "work", "frames_sha256", "seed")
SAMPLE_KINDS: tuple[Literal["samples"], Literal["candidates"]] = ("samples", "candidates")
COST_COLUMNS = ("adapt_seconds", "generate_seconds", "peak_memory_bytes")


@dataclass(frozen=True)
class ClipResult:
    """The measurements of one clip's continuation.

    Attributes:
        clip_id: unique within a set of results.
        class_name: the clip's class, or the name of its folder.
        conditioning_frames: that the model saw; the generated ones follow.
        metrics: on the generated frames.
        losses: training loss at every adaptation step; empty without adaptation.
        work: name of the computation; equal for equal inputs, settings and code.
        device: product name of the GPU that the costs were measured on, or ``cpu``; None if they are unknown.
        adapt_seconds: 0 without adaptation, None if unknown.
        generate_seconds: sampling and decoding of all samples, None if unknown.
        peak_memory_bytes: the highest of adaptation and generation, None if unknown.
        split: whether the clip is for the search or for the test.
        frames_sha256: hash of the preprocessed clip's frames; clips with equal ones are the same window.
        seed: of the starting noise, that of the first sample; arms with equal ones are paired. None without
            noise.
        samples: the metrics of each sample, if ``metrics`` are a mean over several; empty if not.
        candidates: the metrics of each sample, if ``metrics`` are those of a chosen one; empty if not.
        features: (2, k) float32, of the generated frames (the first sample's) and the true ones; None
            where FVD is not measured.
    """

    clip_id: str
    class_name: str
    conditioning_frames: int
    metrics: ClipMetrics
    losses: tuple[float, ...]
    work: str = ""
    device: str | None = None
    adapt_seconds: float | None = None
    generate_seconds: float | None = None
    peak_memory_bytes: int | None = None
    split: Split = "test"
    frames_sha256: str = ""
    seed: int | None = None
    samples: tuple[Mapping[str, float], ...] = ()
    candidates: tuple[Mapping[str, float], ...] = ()
    features: np.ndarray | None = None

    def by_sample(self, name: str) -> list[float]:
        """The metric of each sample, one or more."""
        return [sample[name] for sample in self.samples or (self.metrics.summary,)]

    def best_by_truth(self, name: str) -> float:
        """The metric of the best sample by this metric: no method can know which one that is."""
        values = [sample[name] for sample in self.samples or self.candidates or (self.metrics.summary,)]
        return max(values) if metric(name).direction == "maximize" else min(values)


def mean_over_samples(results: Sequence[ClipResult]) -> ClipResult:
    """The result of a clip of several samples with the same adaptation."""
    first = results[0]
    if len(results) == 1:
        return first
    summaries = tuple(result.metrics.summary for result in results)
    per_frame = {
        name: np.array([result.metrics.per_frame[name] for result in results]).mean(axis=0, dtype=np.float64)
        for name in first.metrics.per_frame
    }
    return replace(
        first,
        metrics=ClipMetrics(
            per_frame={name: values.astype(np.float32) for name, values in per_frame.items()},
            summary={name: float(np.mean([summary[name] for summary in summaries])) for name in summaries[0]},
        ),
        samples=summaries,
        work="+".join(result.work for result in results),
        generate_seconds=sum(result.generate_seconds or 0.0 for result in results),
        peak_memory_bytes=max(result.peak_memory_bytes or 0 for result in results),
    )


def chosen_sample(results: Sequence[ClipResult], index: int) -> ClipResult:
    """The result of a clip of which one of several samples was chosen, at the cost of all.

    The seed is the first one's, as arms are paired by it.
    """
    return replace(
        results[index],
        candidates=tuple(result.metrics.summary for result in results),
        work="+".join(result.work for result in results),
        seed=results[0].seed,
        features=results[0].features,
        generate_seconds=sum(result.generate_seconds or 0.0 for result in results),
        peak_memory_bytes=max(result.peak_memory_bytes or 0 for result in results),
    )


def metric_names(results: Sequence[ClipResult]) -> list[str]:
    """The metrics of a set of results, in the order of the table of metrics.

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
    return in_table_order(names)


def clip_table(results: Sequence[ClipResult]) -> pd.DataFrame:
    """One row a clip, with the columns of ``clips.csv``."""
    names = metric_names(results)
    return pd.DataFrame(
        [
            {name: getattr(result, name) for name in CLIP_COLUMNS}
            | {name: result.metrics.summary[name] for name in names}
            for result in results
        ]
    ).astype({"seed": "Int64"})


def frame_table(results: Sequence[ClipResult]) -> pd.DataFrame:
    """One row a clip and frame, with the columns of ``frames.csv``."""
    names = [name for name in metric_names(results) if metric(name).per_frame]
    return pd.concat([_frames_of(result, names) for result in results], ignore_index=True)


def loss_table(results: Sequence[ClipResult]) -> pd.DataFrame:
    """One row a clip and adaptation step, with the columns of ``losses.csv``."""
    rows = [
        (result.clip_id, step, loss) for result in results for step, loss in enumerate(result.losses, start=1)
    ]
    return pd.DataFrame(rows, columns=["clip_id", "step", "loss"]).astype({"step": int, "loss": float})


def sample_table(results: Sequence[ClipResult], kind: Literal["samples", "candidates"]) -> pd.DataFrame:
    """One row a clip and sample, with the columns of ``samples.csv``; no row for a clip that has none."""
    names = metric_names(results)
    return pd.DataFrame(
        [
            {"clip_id": result.clip_id, "sample": number} | {name: sample[name] for name in names}
            for result in results
            for number, sample in enumerate(getattr(result, kind), start=1)
        ],
        columns=["clip_id", "sample", *names],
    )


def mean_metrics(results: Sequence[ClipResult]) -> dict[str, float]:
    """The mean over clips of every metric."""
    return {
        name: float(np.mean([result.metrics.summary[name] for result in results]))
        for name in metric_names(results)
    }


def mean_costs(results: Sequence[ClipResult]) -> dict[str, float]:
    """Mean seconds per clip and the highest peak memory in MiB, by the names in the table of costs.

    Empty where the costs of a clip are unknown.
    """
    if any(result.device is None for result in results):
        return {}
    values = (
        float(np.mean([result.adapt_seconds or 0.0 for result in results])),
        float(np.mean([result.generate_seconds or 0.0 for result in results])),
        max(result.peak_memory_bytes or 0 for result in results) / 2**20,
    )
    return dict(zip((cost.name for cost in COSTS), values, strict=True))


def write_results(folder: Path, results: Sequence[ClipResult]) -> None:
    """Write the tables; that of samples where there are several, and features where there are some.

    Raises:
        UserError: as :func:`metric_names`.
    """
    write_csv(folder / "frames.csv", frame_table(results))
    write_csv(folder / "losses.csv", loss_table(results))
    for kind in SAMPLE_KINDS:
        if not (samples := sample_table(results, kind)).empty:
            write_csv(folder / f"{kind}.csv", samples)
    write_features(
        folder, {result.clip_id: result.features for result in results if result.features is not None}
    )
    write_csv(folder / CLIPS_TABLE, clip_table(results))


def write_costs(path: Path, results: Sequence[ClipResult]) -> None:
    """Write the table of costs; clips whose costs are unknown are left out."""
    columns = ["clip_id", "work", "device", *COST_COLUMNS]
    rows = [{name: getattr(result, name) for name in columns} for result in results if result.device]
    write_csv(path, pd.DataFrame(rows, columns=columns))


def read_results(folder: Path, costs: Path | None = None) -> list[ClipResult]:
    """Read what :func:`write_results` wrote, clips in the same order.

    Args:
        folder: of the three tables.
        costs: a table of :func:`write_costs`; costs of other computations in it are left out, and it may be
            missing.

    Raises:
        UserError: a table is missing.
    """
    clips, frames, losses = (_read_table(folder / f"{name}.csv") for name in ("clips", "frames", "losses"))
    names = in_table_order([str(column) for column in clips])
    frames_by_clip = dict(list(frames.groupby("clip_id")))
    samples_by_clip = {kind: _read_samples(folder / f"{kind}.csv", names) for kind in SAMPLE_KINDS}
    losses_by_clip = dict(list(losses.groupby("clip_id")["loss"]))
    features = read_features(folder)
    costs_by_work = _read_costs(costs)
    return [
        ClipResult(
            clip_id=row["clip_id"],
            class_name=row["class_name"],
            conditioning_frames=int(frames_by_clip[row["clip_id"]]["frame"].iloc[0]) - 1,
            work=row["work"],
            split=row.get("split", "test"),
            frames_sha256=row.get("frames_sha256", ""),
            seed=int(row["seed"]) if row.get("seed") else None,
            metrics=ClipMetrics(
                per_frame={
                    name: frames_by_clip[row["clip_id"]][name].dropna().to_numpy(np.float32)
                    for name in names
                    if metric(name).per_frame
                },
                summary={name: float(row[name]) for name in names},
            ),
            samples=samples_by_clip["samples"].get(row["clip_id"], ()),
            candidates=samples_by_clip["candidates"].get(row["clip_id"], ()),
            features=features.get(row["clip_id"]),
            losses=tuple(losses_by_clip[row["clip_id"]]) if row["clip_id"] in losses_by_clip else (),
            **costs_by_work.get((str(row["clip_id"]), str(row["work"])), {}),
        )
        for row in clips.to_dict("records")
    ]


def pair_results(
    baseline: Sequence[ClipResult], adapted: Sequence[ClipResult]
) -> list[tuple[ClipResult, ClipResult]]:
    """Both results of every clip, in the order of ``baseline``.

    Raises:
        UserError: the two sides hold different clips, or were measured with different metrics or numbers of
            samples.
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
    numbers = {len(result.samples or result.candidates) or 1 for result in (*baseline, *adapted)}
    if len(numbers) > 1:
        raise UserError(
            f"clips have different numbers of samples ({' and '.join(map(str, sorted(numbers)))}): "
            "run all stages with one generation.num_samples"
        )
    return [(result, by_id[result.clip_id]) for result in baseline]


def _frames_of(result: ClipResult, names: list[str]) -> pd.DataFrame:
    # One that compares a frame with the one before it has no value for the first.
    num_frames = max(len(result.metrics.per_frame[name]) for name in names)
    columns = {
        name: np.concatenate([np.full(num_frames - len(values), np.nan), values])
        for name, values in ((name, result.metrics.per_frame[name]) for name in names)
    }
    frames = result.conditioning_frames + 1 + np.arange(num_frames)
    return pd.DataFrame({"clip_id": result.clip_id, "frame": frames, **columns})


def _read_table(path: Path) -> pd.DataFrame:
    # An id such as 007 or NA stays as it is; only a metric can be missing.
    try:
        return pd.read_csv(
            path,
            dtype={
                "clip_id": str,
                "class_name": str,
                "split": str,
                "work": str,
                "frames_sha256": str,
                "seed": str,
            },
            keep_default_na=False,
            na_values={row.name: [""] for row in METRICS},
        )
    except FileNotFoundError:
        raise UserError(f"{path} not found: run the stage that writes it (dvc repro)") from None


def _read_samples(path: Path, names: list[str]) -> dict[str, tuple[dict[str, float], ...]]:
    if not path.exists():
        return {}
    return {
        str(clip_id): tuple({name: float(row[name]) for name in names} for row in rows.to_dict("records"))
        for clip_id, rows in _read_table(path).groupby("clip_id")
    }


def _read_costs(path: Path | None) -> dict[tuple[str, str], dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    return {
        (row["clip_id"], row["work"]): {name: row[name] for name in ("device", *COST_COLUMNS)}
        for row in _read_table(path).to_dict("records")
    }
