"""Running the trials of a study, each on all clips of the search and in an MLflow run of its own."""

import optuna
from mlflow import MlflowClient
from tqdm import tqdm

from lora_tta.adaptation.trajectory import LoraSettings
from lora_tta.config import Params
from lora_tta.data.clips import Clip
from lora_tta.errors import UserError
from lora_tta.evaluation.results import mean_costs, mean_metrics
from lora_tta.experiment.runner import ClipRunner
from lora_tta.search.study import MEANS_ATTRIBUTE, finished_trials, retry_unfinished, run_next
from lora_tta.tracking.runs import (
    create_run,
    log_clip_runs,
    log_settings,
    open_experiment,
    tracked_run,
)

RUN_ATTRIBUTE = "mlflow_run_id"


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
    if RUN_ATTRIBUTE not in study.user_attrs:
        study.set_user_attr(RUN_ATTRIBUTE, create_run(experiment_id, study.study_name, "study"))
    parent_run_id = study.user_attrs[RUN_ATTRIBUTE]
    for trial in retry_unfinished(study):
        if RUN_ATTRIBUTE in trial.user_attrs:
            MlflowClient().set_terminated(trial.user_attrs[RUN_ATTRIBUTE], status="KILLED")

    def objective(trial: optuna.Trial, settings: LoraSettings) -> float:
        point = ", ".join(f"{name} {value:g}" for name, value in trial.params.items())
        name = f"trial {trial.number:03d}: {point}"
        with tracked_run(experiment_id, name, "trial", parent_run_id) as run_id:
            trial.set_user_attr(RUN_ATTRIBUTE, run_id)
            log_settings(
                trial.params | params.model_dump(mode="json", include={"adaptation", "generation", "model"})
            )
            runs = [runner.run(clip, settings) for clip in tqdm(clips, desc=name, unit="clip", leave=False)]
            log_clip_runs(runs, {run.clip.clip_id: runner.strip(run) for run in runs})
        results = [run.result for run in runs]
        means = mean_metrics(results)
        trial.set_user_attr(MEANS_ATTRIBUTE, means | mean_costs(results))
        return means[params.search.objective]

    with tqdm(total=params.search.n_trials, desc="search", unit="trial") as progress:
        while (done := len(finished_trials(study, params.search.n_trials))) < params.search.n_trials:
            progress.update(done - progress.n)
            run_next(study, params.search, objective)
        progress.update(done - progress.n)
