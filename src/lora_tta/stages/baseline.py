"""Stage ``baseline``: continuations of every clip without adaptation."""

import sys

from lora_tta.errors import report_user_errors
from lora_tta.experiment.pool import clip_workers
from lora_tta.files import atomic
from lora_tta.records.clips import read_manifest
from lora_tta.stages.paths import BASELINE, BASELINE_COSTS, CLIPS, ENCODED
from lora_tta.stages.stage_params import load_stage_params


def main() -> None:
    """Write ``outputs/baseline`` and log the MLflow run ``baseline``."""
    params = load_stage_params()
    with clip_workers(params, CLIPS, ENCODED) as run_clips:
        # Imported, and the store created, while the workers import torch.
        from lora_tta.experiment.export import export_outcomes, strip
        from lora_tta.records.outcome import split_failures
        from lora_tta.records.results import write_costs
        from lora_tta.tracking.mlflow_runs import log_outcomes, log_settings, open_experiment, tracked_run

        experiment_id = open_experiment(params.tracking)
        outcomes, failures = split_failures(run_clips(read_manifest(CLIPS), None, "baseline"))
        with atomic(BASELINE) as folder:
            export_outcomes(folder, outcomes, failures)
        write_costs(BASELINE_COSTS, [outcome.result for outcome in outcomes])
        with tracked_run(experiment_id, "baseline", "baseline"):
            log_settings(params.model_dump(mode="json", include={"model", "preprocess", "generation"}))
            log_outcomes(outcomes, {outcome.clip.clip_id: strip(CLIPS, outcome) for outcome in outcomes})
    for failure in failures:
        print(f"baseline: {failure.clip.clip_id} failed and is left out: {failure.reason}")


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
