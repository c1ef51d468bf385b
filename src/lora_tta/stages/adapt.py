"""Stage ``adapt``: the study's best settings on every clip."""

import json
import sys

from lora_tta.errors import report_user_errors
from lora_tta.experiment.pool import clip_workers
from lora_tta.records.clips import read_manifest
from lora_tta.records.point import LoraSettings
from lora_tta.stages.paths import ADAPT, BEST, CLIPS, ENCODED
from lora_tta.stages.stage_params import load_stage_params


def main() -> None:
    """Write ``outputs/adapt`` and log the MLflow run ``final``."""
    params = load_stage_params()
    best = json.loads(BEST.read_text())
    clips = read_manifest(CLIPS)
    with clip_workers(params, CLIPS, ENCODED) as run_clips:
        # Imported while the workers import torch.
        from lora_tta.experiment.clip_run import export_runs, strip
        from lora_tta.tracking.mlflow_runs import log_clip_runs, log_settings, open_experiment, tracked_run

        experiment_id = open_experiment(params.tracking)
        runs = run_clips(clips, LoraSettings(**best["settings"]), "adapt")
        baseline = run_clips(clips, None, "baseline")
    export_runs(ADAPT, runs)
    strips = {run.clip.clip_id: strip(CLIPS, run, before) for run, before in zip(runs, baseline, strict=True)}
    with tracked_run(experiment_id, "final", "final"):
        log_settings(
            best["settings"]
            | {"study": best["study"], "trial": best["trial"]}
            | params.model_dump(mode="json", include={"adaptation", "generation", "model", "preprocess"})
        )
        log_clip_runs(runs, strips, baseline)


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
