"""Stage ``evaluate``: metrics, plots and the report, from the results of baseline and adapt."""

import json
import os
from collections.abc import Collection
from pathlib import Path

import pandas as pd
from plotly.io import from_json as read_json
from plotly.io import to_html

from lora_tta.backbones import model_notice
from lora_tta.config import Params, load_params
from lora_tta.ends import end_process
from lora_tta.errors import UserError, report_user_errors
from lora_tta.evaluation.comparison import compare, frechet_video_distances
from lora_tta.experiment.failures import read_failures
from lora_tta.files import write_text
from lora_tta.records.clips import read_manifest
from lora_tta.records.features import MIN_CLIPS
from lora_tta.records.metric_table import UNTRAINED_NAME
from lora_tta.records.point import flatten
from lora_tta.records.results import ClipResult, mean_metrics, read_results
from lora_tta.records.yardsticks import OTHER_SEED, YARDSTICKS
from lora_tta.report.caveats import search_caveats
from lora_tta.report.dvc_plots import write_plots
from lora_tta.report.page import ClipVideos, ReportContext, write_costs_script, write_report
from lora_tta.stages.paths import (
    ADAPT,
    ADAPT_COSTS,
    BASELINE,
    BASELINE_COSTS,
    BEST,
    CLIPS,
    FIGURES,
    FVD_METRICS,
    METRICS,
    PLOTS,
    REPORT,
    REPORT_COSTS,
    SEARCH_CLIPS_METRICS,
    TRIALS,
    YARDSTICK_METRICS,
    YARDSTICKS_FOLDER,
)

MAX_VIDEOS = 24
UNTRAINED_REASONS = {
    "untrained": "the settings ask for it (evaluation.lpips: untrained)",
    "required": "the settings asked for something else when the clips were measured",
    "auto": "the trained backbone was neither at hand nor to be fetched when the clips were measured",
}


def main() -> None:
    """Write ``outputs/evaluate``: of the clips for the test, and apart from them of those for the search."""
    params = load_params()
    failures = read_failures(BASELINE) | read_failures(ADAPT)
    arms = [
        [result for result in read_results(folder, costs) if result.clip_id not in failures]
        for folder, costs in ((BASELINE, BASELINE_COSTS), (ADAPT, ADAPT_COSTS))
    ]
    # The clips that chose the point say nothing of how it does on others.
    clips = read_manifest(CLIPS)
    searched = {clip.clip_id for clip in clips if clip.split == "search"}
    baseline, adapted = ([result for result in arm if result.clip_id not in searched] for arm in arms)
    on_search_clips = [[result for result in arm if result.clip_id in searched] for arm in arms]
    statistics = params.evaluation.bootstrap_samples, params.evaluation.seed
    comparisons = compare(baseline, adapted, *statistics)
    primary = _primary(params.evaluation.primary, comparisons)
    measured = {row.name: read_results(BASELINE / YARDSTICKS_FOLDER / row.name) for row in YARDSTICKS}
    yardsticks, search_yardsticks = (
        {
            name: [result for result in results if result.clip_id in {of.clip_id for of in arm}]
            for name, results in measured.items()
        }
        for arm in (baseline, on_search_clips[0])
    )
    luck = compare(baseline, yardsticks[OTHER_SEED], *statistics)
    before, after = on_search_clips
    search_comparisons = compare(before, after, *statistics) if before else {}
    best, trials = json.loads(BEST.read_text()), pd.read_csv(TRIALS)
    notice = model_notice(params.model)
    caveats = search_caveats(best, trials, params.search.dimensions, params.search.sampler)

    for path, compared in ((METRICS, comparisons), (SEARCH_CLIPS_METRICS, search_comparisons)):
        values = {name: comparison.as_json() for name, comparison in compared.items()}
        write_text(path, json.dumps(values, indent=1) + "\n")
    means = {name: mean_metrics(results) for name, results in yardsticks.items()}
    by_metric = {name: {yardstick: means[yardstick][name] for yardstick in means} for name in comparisons}
    write_text(YARDSTICK_METRICS, json.dumps(by_metric, indent=1) + "\n")
    fvd = frechet_video_distances({"baseline": baseline, "adapted": adapted} | yardsticks)
    write_text(FVD_METRICS, json.dumps(fvd, indent=1) + "\n")
    if not fvd and any(result.features is not None for result in baseline):
        caveats.append(
            f"FVD is not reported: it takes {MIN_CLIPS} test clips, and without those that failed "
            f"{len(baseline)} are left."
        )
    write_plots(PLOTS, baseline, adapted, yardsticks, trials)
    write_costs_script(REPORT_COSTS, baseline, adapted)
    write_report(
        REPORT,
        ReportContext(
            title="Test-time adaptation of video continuation",
            baseline=baseline,
            adapted=adapted,
            comparisons=comparisons,
            yardsticks=yardsticks,
            luck=luck,
            primary=primary,
            fvd=fvd,
            search_comparisons=search_comparisons,
            search_yardsticks=search_yardsticks if before else {},
            videos={result.clip_id: clip_videos(result) for result in baseline},
            max_videos=MAX_VIDEOS,
            fps=params.preprocess.fps,
            conditioning_frames=params.preprocess.conditioning_frames,
            num_frames=params.preprocess.num_frames,
            captions={clip.clip_id: clip.caption for clip in clips},
            settings=settings_of_results(params),
            best_trial={"trial": best["trial"], **best["point"]},
            notices=[*([notice] if notice else []), *caveats],
            untrained_because=UNTRAINED_REASONS[params.evaluation.lpips]
            if UNTRAINED_NAME in comparisons
            else None,
            failures=failures,
            costs_script=Path(os.path.relpath(REPORT_COSTS, REPORT.parent)).as_posix(),
            trials=trials,
            figures=figure_fragments(),
        ),
    )


def _primary(name: str, measured: Collection[str]) -> str:
    if name not in measured:
        raise UserError(
            f"evaluation.primary is {name}, which was not measured: choose one of {', '.join(measured)}"
        )
    return name


def figure_fragments() -> list[str]:
    """The study's figures as HTML, the first with the code that all of them need."""
    paths = sorted(FIGURES.glob("*.json"))
    return [
        # A name in place of plotly's random one: equal figures make equal pages.
        to_html(read_json(path.read_text()), full_html=False, include_plotlyjs=not index, div_id=path.stem)
        for index, path in enumerate(paths)
    ]


def clip_videos(result: ClipResult) -> ClipVideos:
    """Ground truth, baseline and adapted video of a clip."""
    name = f"{result.clip_id}.mp4"
    return ClipVideos(
        target=CLIPS / name, baseline=BASELINE / "videos" / name, adapted=ADAPT / "videos" / name
    )


def settings_of_results(params: Params) -> dict[str, object]:
    """``section.key`` to value, of the sections that results depend on."""
    return flatten(params.model_dump(mode="json", exclude={"workers", "tracking", "cache"}))


if __name__ == "__main__":
    end_process(report_user_errors(main))
