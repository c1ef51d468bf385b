"""Stage ``adapt``: the study's best point on every clip."""

import json
import sys

from lora_tta.errors import report_user_errors
from lora_tta.experiment.pool import clip_workers
from lora_tta.files import atomic
from lora_tta.records.clips import read_manifest
from lora_tta.stages.paths import ADAPT, ADAPT_COSTS, BEST, CLIPS, ENCODED
from lora_tta.stages.stage_params import load_stage_params


def main() -> None:
    """Write ``outputs/adapt`` and log the MLflow run ``final``."""
    params = load_stage_params()
    best = json.loads(BEST.read_text())
    clips = read_manifest(CLIPS)
    with clip_workers(params, CLIPS, ENCODED) as run_clips:
        # Imported while the workers import torch.
        from lora_tta.experiment.export import export_outcomes, strip
        from lora_tta.records.outcome import split_failures
        from lora_tta.records.results import write_costs
        from lora_tta.tracking.mlflow_runs import log_outcomes, log_settings, open_experiment, tracked_run

        experiment_id = open_experiment(params.tracking)
        outcomes, failures = split_failures(run_clips(clips, best["point"], "adapt"))
        baseline, _ = split_failures(run_clips(clips, None, "baseline"))
        with atomic(ADAPT) as folder:
            export_outcomes(folder, outcomes, failures)
        write_costs(ADAPT_COSTS, [outcome.result for outcome in outcomes])
        before = {outcome.clip.clip_id: outcome for outcome in baseline}
        # A clip that failed in one arm is left out of both.
        pairs = [(after, before[name]) for after in outcomes if (name := after.clip.clip_id) in before]
        with tracked_run(experiment_id, "final", "final"):
            log_settings(
                best["point"]
                | {"study": best["study"], "trial": best["trial"]}
                | {"adaptation": params.adaptation.at(best["point"]).model_dump(mode="json")}
                | params.model_dump(mode="json", include={"generation", "model", "preprocess"})
            )
            strips = {outcome.clip.clip_id: strip(CLIPS, outcome, other) for outcome, other in pairs}
            log_outcomes([outcome for outcome, _ in pairs], strips, [other for _, other in pairs])
    for failure in failures:
        print(f"adapt: {failure.clip.clip_id} failed and is left out: {failure.reason}")


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
