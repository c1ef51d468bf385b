"""The trials of a study as MLflow's runs, which are made again where the store lacks them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from lora_tta.config import Params
from lora_tta.experiment.export import strip
from lora_tta.experiment.runner import ClipRunner
from lora_tta.records.clips import Clip
from lora_tta.records.point import Point, describe
from lora_tta.search.study import (
    CLIPS_ATTRIBUTE,
    MEANS_ATTRIBUTE,
    ORIGIN_ATTRIBUTE,
    failure_of,
    point_of,
    trial_key,
)
from lora_tta.tracking.mlflow_runs import (
    log_clip,
    log_dataset,
    log_means,
    log_result,
    log_settings,
    log_summary,
    tag_state,
)
from lora_tta.tracking.runs import FAILURE_TAG, STATE_TAG, OpenRun, ended_keys, tracked_run
from lora_tta.tracking.store import Store


def trial_title(number: int, point: Point) -> str:
    """The name of a trial's run."""
    return f"trial {number:03d}: {describe(point)}"


def trial_settings(params: Params, trial: FrozenTrial | optuna.Trial) -> Mapping[str, Any]:
    """The settings of a trial, its point first, and where the point comes from if no sampler suggested it."""
    point = point_of(trial)
    origin = trial.user_attrs.get(ORIGIN_ATTRIBUTE)
    return (
        dict(point)
        | ({} if origin is None else {ORIGIN_ATTRIBUTE: origin})
        | {"adaptation": params.adaptation.at(point).model_dump(mode="json")}
        | params.model_dump(mode="json", include={"generation", "model", "preprocess"})
    )


def log_missing_trials(
    store: Store,
    study: optuna.Study,
    trials: Sequence[FrozenTrial],
    params: Params,
    runner: ClipRunner,
    clips: Sequence[Clip],
) -> int:
    """Log the finished trials that have no complete run in the store.

    The files come from the cache. A trial whose clips are not there any more, or never were on this machine,
    has its settings and means, as the study knows them.

    Args:
        store: of the runs.
        study: of the trials.
        trials: finished ones.
        params: of the pipeline.
        runner: of the trials' clips.
        clips: of the search, in their order.

    Returns:
        The number of runs that were made.
    """
    known = ended_keys(store, f"{study.study_name}/")
    missing = [trial for trial in trials if trial_key(study, trial.number) not in known]
    for trial in missing:
        title, key = trial_title(trial.number, point_of(trial)), trial_key(study, trial.number)
        began = _milliseconds(trial.datetime_start)
        with tracked_run(store, title, "trial", key, study.study_name, started=began) as run:
            if trial.params:  # A worker may have died over all tries before it had a point.
                log_settings(run, trial_settings(params, trial))
            log_dataset(run, params.data.root, runner.clips_folder)
            _log_trial(run, trial, params, runner, clips)
    return len(missing)


def _log_trial(
    run: OpenRun, trial: FrozenTrial, params: Params, runner: ClipRunner, clips: Sequence[Clip]
) -> None:
    ended = _milliseconds(trial.datetime_complete)
    if trial.state == TrialState.FAIL:
        reason = failure_of(trial)
        log_result(run, f"Failed: {reason}")
        run.end("FAILED", {FAILURE_TAG: reason, STATE_TAG: "failed"}, ended)
        return
    point, members = point_of(trial), clips[: trial.user_attrs[CLIPS_ATTRIBUTE]]
    with runner.working():
        if all(runner.is_done(clip, arm) for clip in members for arm in (point, None)):
            pairs = [(runner.run(clip, point), runner.run(clip, None)) for clip in members]
            for adapted, before in pairs:
                log_clip(run, adapted, strip(runner.clips_folder, adapted, before))
            adapted, before = zip(*pairs, strict=True)
            log_summary(run, adapted, before, "search", params.evaluation)
        else:
            log_means(run, trial.user_attrs[MEANS_ATTRIBUTE])
            log_result(run, "Made again from the study; the files of its clips are not in this cache")
    tag_state(run, trial.state.name.lower())
    run.end("FINISHED", ended=ended)


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
