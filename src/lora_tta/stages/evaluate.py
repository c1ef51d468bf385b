"""Stage ``evaluate``: metrics, costs, plots and the report, from the results of baseline and adapt."""

import json
import sys
from pathlib import Path

import pandas as pd
from plotly.io import from_json as read_json
from plotly.io import to_html

from lora_tta.config import Params, load_params
from lora_tta.errors import report_user_errors
from lora_tta.files import write_text
from lora_tta.records.metric_table import UNTRAINED_NAME
from lora_tta.records.results import ClipResult, compare, mean_costs, read_results
from lora_tta.report.dvc_plots import write_plots
from lora_tta.report.page import ClipVideos, ReportContext, write_report
from lora_tta.stages.paths import (
    ADAPT,
    BASELINE,
    BEST,
    CLIPS,
    COSTS,
    FIGURES,
    METRICS,
    PLOTS,
    REPORT,
    TRIALS,
)

MAX_VIDEOS = 24
FULL_HIDDEN_SIZE = 3072
SMALL_MODEL = (
    "These numbers come from a small model of the same architecture. They say nothing about Open-Sora v2.0."
)
UNTRAINED = "the trained ImageNet backbone was neither at hand nor to be fetched when the clips were measured"


def main() -> None:
    """Write ``outputs/evaluate``."""
    params = load_params()
    baseline, adapted = read_results(BASELINE), read_results(ADAPT)
    comparisons = compare(baseline, adapted, params.evaluation.bootstrap_samples, params.evaluation.seed)
    best, trials = json.loads(BEST.read_text()), pd.read_csv(TRIALS)

    write_json(METRICS, {name: comparison.as_json() for name, comparison in comparisons.items()})
    write_json(COSTS, {"baseline": mean_costs(baseline), "adapted": mean_costs(adapted)})
    write_plots(PLOTS, baseline, adapted, trials)
    write_report(
        REPORT,
        ReportContext(
            title="LoRA test-time adaptation of video continuation",
            baseline=baseline,
            adapted=adapted,
            comparisons=comparisons,
            videos={result.clip_id: clip_videos(result) for result in baseline},
            max_videos=MAX_VIDEOS,
            fps=params.preprocess.fps,
            settings=flat_settings(params),
            best_trial={"trial": best["trial"], **best["settings"]},
            notices=[SMALL_MODEL] if hidden_size(params) < FULL_HIDDEN_SIZE else [],
            untrained_because=UNTRAINED if UNTRAINED_NAME in comparisons else None,
            trials=trials,
            figures=figure_fragments(),
        ),
    )


def write_json(path: Path, values: dict) -> None:
    """Write indented JSON, atomically."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def figure_fragments() -> list[str]:
    """The study's figures as HTML, the first with all that they need."""
    figures = [read_json(path.read_text()) for path in sorted(FIGURES.glob("*.json"))]
    return [
        to_html(figure, full_html=False, include_plotlyjs=index == 0) for index, figure in enumerate(figures)
    ]


def clip_videos(result: ClipResult) -> ClipVideos:
    """Ground truth, baseline and adapted video of a clip."""
    name = f"{result.clip_id}.mp4"
    return ClipVideos(
        target=CLIPS / name, baseline=BASELINE / "videos" / name, adapted=ADAPT / "videos" / name
    )


def flat_settings(params: Params) -> dict[str, object]:
    """``section.key`` to value, of the sections that results depend on."""
    sections = params.model_dump(mode="json", exclude={"workers", "tracking", "cache"})
    return pd.json_normalize(sections).iloc[0].to_dict()


def hidden_size(params: Params) -> int:
    """Width of the transformer."""
    config = json.loads((params.model.path / "transformer" / "config.json").read_text())
    return config["num_attention_heads"] * config["attention_head_dim"]


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
