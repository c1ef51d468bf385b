"""Running the trials of a study, each on all clips of the search and in an MLflow run of its own."""

import optuna
from mlflow import MlflowClient
from tqdm import tqdm

from lora_tta.config import Params
from lora_tta.data.clips import Clip
from lora_tta.errors import UserError
from lora_tta.experiment.runner import ClipRunner, mean_costs, mean_metrics
from lora_tta.search.study import abandon_unfinished, ask, finished_trials, settings_of
from lora_tta.tracking.runs import (
    create_run,
    log_clip_runs,
    log_settings,
    open_experiment,
    tracked_run,
)

PARENT_ATTRIBUTE, RUN_ATTRIBUTE = "mlflow_run_id", "mlflow_run_id"


def run_trials(study: optuna.Study, params: Params, runner: ClipRunner, clips: list[Clip]) -> None:
    """Add trials until the study has ``search.n_trials`` completed ones.

    Raises:
        UserError: the objective is not among the metrics that could be measured.
    """
    if params.search.objective not in runner.metric_names:
        raise UserError(
            f"search.objective {params.search.objective} cannot be measured with evaluation.lpips: "
            f"{params.evaluation.lpips}; choose one of {', '.join(runner.metric_names)}"
        )
    experiment_id = open_experiment(params.tracking)
    if PARENT_ATTRIBUTE not in study.user_attrs:
        study.set_user_attr(PARENT_ATTRIBUTE, create_run(experiment_id, study.study_name, "study"))
    parent_run_id = study.user_attrs[PARENT_ATTRIBUTE]
    for trial in abandon_unfinished(study):
        if RUN_ATTRIBUTE in trial.user_attrs:
            MlflowClient().set_terminated(trial.user_attrs[RUN_ATTRIBUTE], status="KILLED")

    done = len(finished_trials(study, params.search.n_trials))
    with tqdm(total=params.search.n_trials, initial=done, desc="search", unit="trial") as progress:
        while len(finished_trials(study, params.search.n_trials)) < params.search.n_trials:
            run_trial(study, ask(study, params.search), params, runner, clips, experiment_id, parent_run_id)
            progress.update()


def run_trial(
    study: optuna.Study,
    trial: optuna.Trial,
    params: Params,
    runner: ClipRunner,
    clips: list[Clip],
    experiment_id: str,
    parent_run_id: str,
) -> None:
    """Evaluate one point of the space on every clip, log it, and tell the study its value."""
    settings = settings_of(trial)
    name = f"trial {trial.number:03d}: " + ", ".join(
        f"{key} {value:g}" for key, value in trial.params.items()
    )
    with tracked_run(experiment_id, name, "trial", parent_run_id) as run_id:
        trial.set_user_attr(RUN_ATTRIBUTE, run_id)
        log_settings(
            trial.params | params.model_dump(mode="json", include={"adaptation", "generation", "model"})
        )
        runs = [runner.run(clip, settings) for clip in tqdm(clips, desc=name, unit="clip", leave=False)]
        log_clip_runs(runs, {run.clip.clip_id: runner.strip(run) for run in runs})
    results = [run.result for run in runs]
    means = mean_metrics(results)
    trial.set_user_attr("means", means | mean_costs(results))
    study.tell(trial, means[params.search.objective])
