"""Stage ``adapt``: the study's best point on every clip."""

import json
import time

from lora_tta.cache.lock_check import check_locks
from lora_tta.ends import end_process
from lora_tta.errors import report_user_errors
from lora_tta.experiment.pool import ClipTasks, clips_at_work
from lora_tta.files import atomic
from lora_tta.records.clips import read_manifest
from lora_tta.stages.paths import ADAPT, ADAPT_COSTS, BEST, CLIPS, ENCODED
from lora_tta.stages.stage_params import load_measuring_params
from lora_tta.tracking.reachable import check_store


def main() -> None:
    """Write ``outputs/adapt`` and log the MLflow run ``final``."""
    began = time.time_ns() // 1_000_000
    params = load_measuring_params()
    check_locks(params.cache.path)
    check_store(params.tracking.uri)
    best = json.loads(BEST.read_text())
    # The baseline is in the cache, for the strips and the gains.
    tasks = ClipTasks(params, CLIPS, ENCODED, read_manifest(CLIPS), [best["point"], None])
    with clips_at_work(tasks, "adapt") as arriving:
        # Imported while the workers import torch.
        from lora_tta.experiment.export import export_files, export_tables, strip
        from lora_tta.records.arm_settings import write_settings
        from lora_tta.records.outcome import ClipFailure
        from lora_tta.records.results import write_costs
        from lora_tta.tracking.mlflow_runs import log_clip, log_summary, stage_run

        sections = {
            "adaptation": params.adaptation.at(best["point"]).model_dump(mode="json")
        } | params.model_dump(mode="json", include={"generation", "model", "preprocess"})
        settings = best["point"] | {"study": best["study"], "trial": best["trial"]} | sections
        outcomes, pairs, failures = [], [], []
        with stage_run(params, "final", settings, CLIPS, began) as run, atomic(ADAPT) as folder:
            for adapted, before in arriving:
                if isinstance(adapted, ClipFailure):
                    failures.append(adapted)
                    continue
                outcomes.append(adapted)
                export_files(folder, adapted)
                # A clip that failed in one arm is left out of both.
                if not isinstance(before, ClipFailure):
                    pairs.append((adapted, before))
                    log_clip(run, adapted, strip(CLIPS, adapted, before))
            export_tables(folder, outcomes, failures)
            write_settings(folder, sections)
            log_summary(
                run,
                [adapted for adapted, _ in pairs],
                [before for _, before in pairs],
                evaluation=params.evaluation,
            )
        write_costs(ADAPT_COSTS, [outcome.result for outcome in outcomes])
    for failure in failures:
        print(f"adapt: {failure.clip.clip_id} failed and is left out: {failure.reason}")


if __name__ == "__main__":
    end_process(report_user_errors(main))
