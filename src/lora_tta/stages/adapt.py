"""Stage ``adapt``: the study's best settings on every clip."""

import json
import sys

from lora_tta.adaptation.trajectory import LoraSettings
from lora_tta.config import load_params
from lora_tta.data.clips import read_manifest
from lora_tta.errors import report_user_errors
from lora_tta.experiment.pool import run_clips
from lora_tta.experiment.runner import export_runs, strip
from lora_tta.stages.paths import ADAPT, BEST, CLIPS, ENCODED
from lora_tta.tracking.runs import log_clip_runs, log_settings, open_experiment, tracked_run


def main() -> None:
    """Write ``outputs/adapt`` and log the MLflow run ``final``."""
    params = load_params()
    best = json.loads(BEST.read_text())
    settings = LoraSettings(**best["settings"])
    clips = read_manifest(CLIPS)
    runs = run_clips(params, CLIPS, ENCODED, clips, settings, "adapt")
    export_runs(ADAPT, runs)
    baseline = run_clips(params, CLIPS, ENCODED, clips, None, "baseline")
    strips = {run.clip.clip_id: strip(CLIPS, run, before) for run, before in zip(runs, baseline, strict=True)}
    with tracked_run(open_experiment(params.tracking), "final", "final"):
        log_settings(
            best["settings"]
            | {"study": best["study"], "trial": best["trial"]}
            | params.model_dump(mode="json", include={"adaptation", "generation", "model", "preprocess"})
        )
        log_clip_runs(runs, strips, baseline)


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
