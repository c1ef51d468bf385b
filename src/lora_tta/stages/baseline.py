"""Stage ``baseline``: continuations of every clip without adaptation, and the yardsticks beside them."""

import time
from typing import TYPE_CHECKING, Any

from lora_tta.cache.lock_check import check_locks
from lora_tta.config import Params
from lora_tta.ends import end_process
from lora_tta.errors import report_user_errors
from lora_tta.experiment.pool import ClipTasks, clips_at_work
from lora_tta.files import atomic
from lora_tta.records.clips import read_manifest
from lora_tta.records.yardsticks import YARDSTICKS
from lora_tta.stages.paths import BASELINE, BASELINE_COSTS, CLIPS, ENCODED, YARDSTICKS_FOLDER
from lora_tta.stages.stage_params import load_measuring_params
from lora_tta.tracking.reachable import check_store

if TYPE_CHECKING:
    from lora_tta.experiment.runner import ClipRunner
    from lora_tta.tracking.store import Store

KIND = "baseline"
NAMES = [yardstick.name for yardstick in YARDSTICKS]


def main() -> None:
    """Write ``outputs/baseline`` and log the MLflow run ``baseline``.

    ``yardsticks/<name>`` has a yardstick's tables (:mod:`lora_tta.records.yardsticks`), of the same clips.
    """
    began = time.time_ns() // 1_000_000
    params = load_measuring_params()
    check_locks(params.cache.path)
    check_store(params.tracking.uri)
    tasks = ClipTasks(params, CLIPS, ENCODED, read_manifest(CLIPS), [None, *NAMES])
    with clips_at_work(tasks, "baseline") as arriving:
        # Imported, and the store created, while the workers import torch.
        from lora_tta.experiment.export import export_files, export_tables, strip
        from lora_tta.records.arm_settings import write_settings
        from lora_tta.records.outcome import ClipFailure, ClipOutcome
        from lora_tta.records.results import write_costs
        from lora_tta.tracking.mlflow_runs import log_clip, log_summary, log_yardsticks, stage_run

        outcomes, failures = [], []
        measured: dict[str, list[ClipOutcome]] = {name: [] for name in NAMES}
        with stage_run(params, KIND, _settings(params), CLIPS, began) as run, atomic(BASELINE) as folder:
            for arms in arriving:
                # A clip without one of the yardsticks could not be read against it.
                if failed := [arm for arm in arms if isinstance(arm, ClipFailure)]:
                    failures.append(failed[0])
                    continue
                outcome, *others = (arm for arm in arms if isinstance(arm, ClipOutcome))
                for name, other in zip(NAMES, others, strict=True):
                    measured[name].append(other)
                outcomes.append(outcome)
                export_files(folder, outcome)
                log_clip(run, outcome, strip(CLIPS, outcome))
            export_tables(folder, outcomes, failures)
            write_settings(folder, _settings(params))
            for name in NAMES:
                export_tables(folder / YARDSTICKS_FOLDER / name, measured[name])
            log_summary(run, outcomes, evaluation=params.evaluation)
            log_yardsticks(run, measured)
        write_costs(BASELINE_COSTS, [outcome.result for outcome in outcomes])
    for failure in failures:
        print(f"baseline: {failure.clip.clip_id} failed and is left out: {failure.reason}")


def log_missing(store: "Store", params: Params, runner: "ClipRunner") -> bool:
    """Log the baseline again from the cache if its run is not in the store; whether that was done.

    A baseline of which the cache does not hold every clip is left to the stage.
    """
    from lora_tta.experiment.export import strip
    from lora_tta.tracking.mlflow_runs import log_clip, log_summary, log_yardsticks, stage_key, stage_run
    from lora_tta.tracking.runs import ended_keys

    settings, folder = _settings(params), runner.clips_folder
    clips = read_manifest(folder)
    if ended_keys(store, stage_key(params, KIND, settings, folder)):
        return False
    with runner.working():
        if not all(runner.is_done(clip, arm) for clip in clips for arm in (None, *NAMES)):
            return False
        with stage_run(params, KIND, settings, folder, time.time_ns() // 1_000_000) as run:
            outcomes = [runner.run(clip, None) for clip in clips]
            for outcome in outcomes:
                log_clip(run, outcome, strip(folder, outcome))
            log_summary(run, outcomes, evaluation=params.evaluation)
            log_yardsticks(run, {name: [runner.run(clip, name) for clip in clips] for name in NAMES})
    return True


def _settings(params: Params) -> dict[str, Any]:
    return params.model_dump(mode="json", include={"model", "preprocess", "generation"})


if __name__ == "__main__":
    end_process(report_user_errors(main))
