"""Stage ``baseline``: continuations of every clip without adaptation."""

import sys

from lora_tta.errors import report_user_errors
from lora_tta.experiment.pool import clip_workers
from lora_tta.records.clips import read_manifest
from lora_tta.stages.paths import BASELINE, CLIPS, ENCODED
from lora_tta.stages.stage_params import load_stage_params


def main() -> None:
    """Write ``outputs/baseline`` and log the MLflow run ``baseline``."""
    params = load_stage_params()
    with clip_workers(params, CLIPS, ENCODED) as run_clips:
        # Imported, and the store created, while the workers import torch.
        from lora_tta.experiment.clip_run import export_runs, strip
        from lora_tta.tracking.mlflow_runs import log_clip_runs, log_settings, open_experiment, tracked_run

        experiment_id = open_experiment(params.tracking)
        runs = run_clips(read_manifest(CLIPS), None, "baseline")
    export_runs(BASELINE, runs)
    with tracked_run(experiment_id, "baseline", "baseline"):
        log_settings(params.model_dump(mode="json", include={"model", "preprocess", "generation"}))
        log_clip_runs(runs, {run.clip.clip_id: strip(CLIPS, run) for run in runs})


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
