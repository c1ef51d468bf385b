"""One self-contained HTML page: what adaptation changed, by metric, clip and frame, with the videos."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from lora_tta.evaluation.statistics import PairedComparison
from lora_tta.files import write_text
from lora_tta.records.metric_table import COSTS, UNTRAINED_NAME, metric
from lora_tta.records.results import ClipResult, mean_costs, mean_metrics, pair_results
from lora_tta.records.yardsticks import OTHER_SEED, YARDSTICKS
from lora_tta.report.caveats import conclusion
from lora_tta.report.charts import BarChart, LineChart, difference_chart, interval_mark, line_chart
from lora_tta.report.dvc_plots import clip_differences, frame_curve, loss_curve

# The clips that are named as the best and as the worst, of each so many.
EXTREMES = 3


@dataclass(frozen=True)
class ClipVideos:
    """Three H.264 MP4 files of one clip, each with all of its frames."""

    target: Path
    baseline: Path
    adapted: Path


class ClassRow(NamedTuple):
    """Means of a metric over the clips of one class, how many of them improved, and the yardsticks' means."""

    name: str
    clips: int
    baseline: float
    adapted: float
    improved: int
    yardsticks: Mapping[str, float]


@dataclass(frozen=True)
class ReportContext:
    """The content of the report.

    Attributes:
        title: of the page.
        baseline: results without adaptation.
        adapted: results of the same clips with adaptation.
        comparisons: as :func:`lora_tta.evaluation.comparison.compare` returns them.
        yardsticks: results of the same clips by the names of ``YARDSTICKS``; any may be missing.
        luck: the comparison of the baseline with itself at another seed, empty without one.
        primary: the metric that the answer is given in.
        fvd: the Fréchet video distance of the arms and yardsticks, empty where it is not measured.
        search_comparisons: the same of the clips that chose the settings, which are in nothing else here.
        search_yardsticks: results of these clips by the names of ``YARDSTICKS``; any may be missing.
        videos: by ``clip_id``; clips without videos are left out of the video section.
        max_videos: how many clips are shown with videos, spread evenly from the largest gain in the
            primary metric to the largest loss.
        fps: frame rate of the videos.
        conditioning_frames: that the model saw of each clip.
        num_frames: of each clip.
        captions: by ``clip_id``, what the model was told.
        settings: setting names and values, for instance ``adaptation.condition``.
        best_trial: name and value of what the search chose, None without a search.
        notices: plain sentences that must be read with the numbers.
        untrained_because: why LPIPS was not measured, None if it was.
        failures: reasons by the id of clips that failed in either arm and are left out of both.
        costs_script: path of a script beside the page that :func:`write_costs_script` wrote.
        trials: one row a trial, None without a search.
        figures: trusted HTML fragments for the search section, inserted as they are. They must bring what
            they need (plotly: ``include_plotlyjs=True`` on the first).
    """

    title: str
    baseline: Sequence[ClipResult]
    adapted: Sequence[ClipResult]
    comparisons: Mapping[str, PairedComparison]
    yardsticks: Mapping[str, Sequence[ClipResult]]
    luck: Mapping[str, PairedComparison]
    primary: str
    fvd: Mapping[str, float]
    search_comparisons: Mapping[str, PairedComparison]
    search_yardsticks: Mapping[str, Sequence[ClipResult]]
    videos: Mapping[str, ClipVideos]
    max_videos: int
    fps: float
    conditioning_frames: int
    num_frames: int
    captions: Mapping[str, str]
    settings: Mapping[str, object]
    best_trial: Mapping[str, object] | None
    notices: Sequence[str]
    untrained_because: str | None
    failures: Mapping[str, str]
    costs_script: str
    trials: pd.DataFrame | None
    figures: Sequence[str]


def write_report(path: Path, context: ReportContext) -> None:
    """Write the report as one HTML file that needs no network, and only for costs another file.

    Raises:
        UserError: the two sides hold different clips or metrics.
        FileNotFoundError: a video of a clip that is shown is missing.
    """
    rows = [metric(name) for name in context.comparisons]
    environment = Environment(
        loader=PackageLoader("lora_tta.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "measured": _measured,
        "measured_spread": _measured_spread,
        "signed": _signed,
        "number": _number,
        "cell": _cell,
    }
    page = environment.get_template("report.html").render(
        **{field.name: getattr(context, field.name) for field in fields(context)},
        labels={row.name: row.title for row in rows},
        short_labels={row.name: row.label for row in rows},
        directions={row.name: row.direction for row in rows},
        yardstick_rows=[row for row in YARDSTICKS if row.name in context.yardsticks],
        other_seed=OTHER_SEED,
        yardstick_means=_means(context.yardsticks),
        search_yardstick_means=_means(context.search_yardsticks),
        yardsticks_by_clip={
            name: {result.clip_id: result.metrics.summary[context.primary] for result in results}
            for name, results in context.yardsticks.items()
        },
        conclusion=conclusion(context.comparisons, context.primary),
        units={row.name: f" {row.unit}" if row.unit else "" for row in rows},
        compared_with_truth=[row.name for row in rows if row.needs_reference],
        untrained_name=UNTRAINED_NAME,
        cost_rows=COSTS,
        metric_rows=rows,
        pairs=pair_results(context.baseline, context.adapted),
        intervals={name: interval_mark(comparison) for name, comparison in context.comparisons.items()},
        difference_charts={name: _difference_chart(context, name) for name in context.comparisons},
        frame_charts={row.name: _frame_chart(context, row.name) for row in rows if row.per_frame},
        loss_chart=_loss_chart(context.adapted),
        shown=_shown_clips(context),
        classes=_by_class(context),
        extremes=_extremes(context),
        num_samples=len(context.baseline[0].by_sample(context.primary)),
        num_candidates=len(context.baseline[0].candidates),
        oracle=_oracle(context),
    )
    write_text(path, page)


def _means(arms: Mapping[str, Sequence[ClipResult]]) -> dict[str, dict[str, float]]:
    return {name: mean_metrics(results) for name, results in arms.items()}


def _oracle(context: ReportContext) -> dict[str, tuple[float, float]]:
    """Means over the clips of the best sample by the truth, of both arms; empty with one sample a clip."""
    first = context.baseline[0]
    if len(first.samples or first.candidates) < 2:
        return {}
    names = [name for name in context.comparisons if metric(name).needs_reference]
    baseline, adapted = (
        {name: float(np.mean([result.best_by_truth(name) for result in arm])) for name in names}
        for arm in (context.baseline, context.adapted)
    )
    return {name: (baseline[name], adapted[name]) for name in names}


def _mean(results: Sequence[ClipResult], name: str) -> float:
    return mean_metrics(results)[name] if results else math.nan


def _by_class(context: ReportContext) -> list[ClassRow]:
    """The primary metric in each class, from the largest gain to the largest loss; empty with one class."""
    values: dict[str, list[tuple[float, float]]] = {}
    for before, after in _from_gain_to_loss(context):
        pair = before.metrics.summary[context.primary], after.metrics.summary[context.primary]
        values.setdefault(before.class_name, []).append(pair)
    sign = 1 if metric(context.primary).direction == "maximize" else -1
    rows = []
    for name, pairs in values.items():
        baseline, adapted = (float(side) for side in np.mean(pairs, axis=0))
        improved = sum(sign * (after - before) > 0 for before, after in pairs)
        yardsticks = {
            yardstick: _mean([of for of in results if of.class_name == name], context.primary)
            for yardstick, results in context.yardsticks.items()
        }
        rows.append(ClassRow(name, len(pairs), baseline, adapted, improved, yardsticks))
    return sorted(rows, key=lambda row: -sign * (row.adapted - row.baseline)) if rows[1:] else []


def _extremes(context: ReportContext) -> list[tuple[ClipResult, ClipResult]]:
    """The clips that gain the most in the primary metric and those that lose the most, from best to worst."""
    ranked = _from_gain_to_loss(context)
    count = min(EXTREMES, len(ranked) // 2)
    return [*ranked[:count], *ranked[len(ranked) - count :]]


def _difference_chart(context: ReportContext, name: str) -> BarChart:
    row = metric(name)
    table = clip_differences(context.baseline, context.adapted, name)
    differences = dict(zip(table["clip_id"], table["difference"], strict=True))
    return difference_chart(differences, row.direction, row.difference_decimals)


def _frame_chart(context: ReportContext, name: str) -> LineChart:
    curve = frame_curve(context.baseline, context.adapted, context.yardsticks, name)
    sides = [str(column) for column in curve if column != "frame"]
    return line_chart(curve["frame"].tolist(), {side: curve[side].tolist() for side in sides})


def _loss_chart(adapted: Sequence[ClipResult]) -> LineChart | None:
    losses = loss_curve(adapted)
    if losses.empty:
        return None
    curves = {name: losses[name].tolist() for name in ("quartile_1", "quartile_3", "mean")}
    return line_chart(losses["step"].tolist(), curves)


def write_costs_script(path: Path, baseline: Sequence[ClipResult], adapted: Sequence[ClipResult]) -> None:
    """Write the costs that the page shows, as a script that it loads.

    They differ from run to run, and the page itself must not.
    """
    units = {cost.name: cost.unit for cost in COSTS}
    devices = sorted({result.device for result in (*baseline, *adapted) if result.device})
    # Seconds of different devices are not set side by side.
    one_device = len(devices) <= 1
    sides = {"baseline": mean_costs(baseline), "adapted": mean_costs(adapted)} if one_device else {}
    costs = {
        "device": ", ".join(devices) + ("" if one_device else ", and so not compared"),
        "means": {
            f"{side}.{name}": f"{value:.2f} {units[name]}"
            for side, means in sides.items()
            for name, value in means.items()
        },
        "clips": {
            result.clip_id: {"adapt": result.adapt_seconds, "generate": result.generate_seconds}
            for result in adapted
        },
    }
    write_text(path, f"window.COSTS = {json.dumps(costs)};\n")


def _shown_clips(context: ReportContext) -> list[tuple[ClipResult, ClipResult, dict[str, str]]]:
    """Clips with videos, evenly spread from gain to loss in the primary metric, videos as base64."""
    candidates = [pair for pair in _from_gain_to_loss(context) if pair[0].clip_id in context.videos]
    count = min(context.max_videos, len(candidates))
    chosen = np.linspace(0, len(candidates) - 1, count).round().astype(int)
    return [(*candidates[index], _embedded(context.videos[candidates[index][0].clip_id])) for index in chosen]


def _from_gain_to_loss(context: ReportContext) -> list[tuple[ClipResult, ClipResult]]:
    name, sign = context.primary, 1 if metric(context.primary).direction == "minimize" else -1
    return sorted(
        pair_results(context.baseline, context.adapted),
        key=lambda pair: sign * (pair[1].metrics.summary[name] - pair[0].metrics.summary[name]),
    )


def _embedded(videos: ClipVideos) -> dict[str, str]:
    return {
        field.name: base64.b64encode(getattr(videos, field.name).read_bytes()).decode("ascii")
        for field in fields(videos)
    }


def _measured(value: float, name: str) -> str:
    return _number(value, metric(name).decimals)


def _measured_spread(value: float, name: str) -> str:
    return _number(value, metric(name).difference_decimals)


def _signed(value: float, name: str) -> str:
    return _number(value, metric(name).difference_decimals, sign="+")


def _number(value: float, decimals: int, sign: str = "-") -> str:
    if math.isnan(value):
        return "\N{EN DASH}"
    return f"{value:{sign}.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _cell(value: Any) -> str:
    """A setting or a cell of the trials table; numbers short, lists plain, nothing for a missing value."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    if pd.isna(value):
        return "\N{EN DASH}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
