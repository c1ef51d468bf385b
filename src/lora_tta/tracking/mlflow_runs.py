"""MLflow runs: one parent a study, one child a trial, and the baseline and final runs beside them."""

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import mlflow
import numpy as np
import pandas as pd
from filelock import FileLock
from mlflow.entities import Metric, Param, Run
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE
from plotly.graph_objects import Figure

from lora_tta.config import SQLITE, TrackingParams
from lora_tta.errors import reason_of
from lora_tta.experiment.export import export_files, export_tables
from lora_tta.files import atomic
from lora_tta.records.arm_settings import SETTINGS
from lora_tta.records.clips import Split
from lora_tta.records.outcome import ClipOutcome
from lora_tta.records.point import flatten
from lora_tta.records.results import (
    CLIPS_TABLE,
    ClipResult,
    clip_table,
    loss_table,
    mean_costs,
    mean_metrics,
)

KIND_TAG, KEY_TAG, BEST_TAG = "lora_tta.kind", "lora_tta.key", "lora_tta.best_of"
STATE_TAG, FAILURE_TAG = "lora_tta.state", "lora_tta.failure"
logger = logging.getLogger(__name__)
# The most metrics that MLflow takes in one request.
MAX_BATCH = 1000
NOT_IN_IMAGE_KEYS = r"[^a-zA-Z0-9_\-. ]"


def open_experiment(params: TrackingParams) -> str:
    """Point MLflow at the store and return the experiment's id, creating both where they are missing."""
    if params.uri.startswith(SQLITE):
        _create_database(Path(params.uri.removeprefix(SQLITE)), params.artifact_root)
    mlflow.set_tracking_uri(params.uri)
    experiment = mlflow.get_experiment_by_name(params.experiment)
    if experiment is not None:
        return experiment.experiment_id
    params.artifact_root.mkdir(parents=True, exist_ok=True)
    return mlflow.create_experiment(
        params.experiment,
        params.artifact_root.absolute().as_uri(),
        # Opens the experiment in the UI on its runs, not on traces of language models.
        tags={"mlflow.experimentKind": "custom_model_development"},
    )


def _create_database(path: Path, artifact_root: Path) -> None:
    """A SQLite database with MLflow's tables, whole or not at all.

    MLflow makes the tables in dozens of steps, and can't go on from where a killed process left them.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        with atomic(path) as partial:
            store = SqlAlchemyStore(f"{SQLITE}{partial}", artifact_root.absolute().as_uri())
            store._dispose_engine()


@contextmanager
def tracked_run(experiment_id: str, name: str, kind: str, run_id: str | None = None) -> Iterator[str]:
    """A run that is open inside the ``with`` and ends as FINISHED, or as FAILED with its reason.

    Args:
        kind: ``study``, ``trial``, ``baseline`` or ``final``; a tag to filter by in the UI.
        run_id: continue this run instead of creating one.

    Yields:
        The run's id.
    """
    tags = {KIND_TAG: kind}
    with mlflow.start_run(run_id, experiment_id=experiment_id, run_name=name, tags=tags) as run:
        try:
            yield run.info.run_id
        except Exception as error:
            reason = reason_of(error)
            mlflow.set_tags({FAILURE_TAG: reason, MLFLOW_RUN_NOTE: f"Failed: {reason}", STATE_TAG: "failed"})
            raise


def open_study_run(experiment_id: str, study_name: str) -> str:
    """The id of the study's run, created if there is none. Not safe without a lock around it."""
    runs = _find(experiment_id, study_name)
    return runs[0].info.run_id if runs else _create(experiment_id, study_name, "study", study_name)


def open_trial_run(experiment_id: str, name: str, key: str, parent_run_id: str) -> str:
    """A new child run for a trial, in place of one that a killed process left half filled.

    Not safe without a lock around it.

    Args:
        key: names the trial among all others; a tag by which its run is found again.
    """
    for run in _find(experiment_id, key):
        mlflow.MlflowClient().delete_run(run.info.run_id)
    return _create(experiment_id, name, "trial", key, {MLFLOW_PARENT_RUN_ID: parent_run_id})


def log_study(
    experiment_id: str,
    study_name: str,
    best_key: str,
    best: Mapping[str, object],
    trials: pd.DataFrame,
    figures: Mapping[str, Figure],
) -> None:
    """Bring the study's run up to date: the best trial, the table of trials, and figures; and close it.

    The best trial's run is tagged, and its adapters become a version of the registered model that is
    named after the experiment, with the alias ``best``.

    Args:
        best_key: of the best trial, as given to :func:`open_trial_run`.
        best: its settings and means, by name.
    """
    client = mlflow.MlflowClient()
    best_run = next(iter(_find(experiment_id, best_key)), None)
    with mlflow.start_run(open_study_run(experiment_id, study_name)):
        mlflow.set_tags({f"best.{name}": value for name, value in best.items()})
        mlflow.log_metric("trials", len(trials))
        mlflow.log_text(trials.to_csv(index=False), "trials.csv")
        for name, figure in figures.items():
            mlflow.log_figure(figure, f"figures/{name}.html")
    for run in client.search_runs([experiment_id], f"tags.`{BEST_TAG}` = '{study_name}'"):
        client.delete_tag(run.info.run_id, BEST_TAG)
    if best_run is None:
        logger.warning(
            "MLflow has no run of the best trial, %s: it is neither tagged nor registered", best_key
        )
        return
    client.set_tag(open_study_run(experiment_id, study_name), "best.run", best_run.info.run_id)
    client.set_tag(best_run.info.run_id, BEST_TAG, study_name)
    _register(client, client.get_experiment(experiment_id).name, best_run, best_key)


def _register(client: mlflow.MlflowClient, name: str, run: Run, key: str) -> None:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description="Adapters of the best trials, one a clip")
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run.info.run_id}'")
    version = (
        versions[0]
        if versions
        else client.create_model_version(
            name, f"{run.info.artifact_uri}/adapters", run.info.run_id, tags={KEY_TAG: key}
        )
    )
    client.set_registered_model_alias(name, "best", version.version)


def _find(experiment_id: str, key: str) -> list[Run]:
    return mlflow.MlflowClient().search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'")


def _create(experiment_id: str, name: str, kind: str, key: str, tags: Mapping[str, str] | None = None) -> str:
    tags = resolve_tags({KIND_TAG: kind, KEY_TAG: key} | dict(tags or {}))
    return mlflow.MlflowClient().create_run(experiment_id, tags=tags, run_name=name).info.run_id


def log_settings(run_id: str, settings: Mapping[str, object]) -> None:
    """Log nested settings as parameters of a run, named ``section.key``."""
    params = [Param(name, str(value)) for name, value in flatten(settings).items()]
    client = mlflow.MlflowClient()
    client.log_batch(run_id, params=params)
    # Parameters are text; the file is what an arm's folder has too.
    client.log_dict(run_id, flatten(settings), SETTINGS)


def log_running_mean(run_id: str, metric: str, value: float, num_clips: int) -> None:
    """Log the mean of a metric over the first clips of a trial."""
    mlflow.MlflowClient().log_metric(run_id, f"running_{metric}", value, step=num_clips)


def fetch_tables(params: TrackingParams, run_id: str, folder: Path) -> bool:
    """Copy the tables of results of a run into a folder; False if there is no such run, or it has none."""
    if params.uri.startswith(SQLITE) and not Path(params.uri.removeprefix(SQLITE)).exists():
        return False  # MLflow would make one.
    # A bar for each of a few small tables tells nothing.
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    mlflow.set_tracking_uri(params.uri)
    client = mlflow.MlflowClient()
    try:
        names = [artifact.path for artifact in client.list_artifacts(run_id)]
        for name in (name for name in names if name.endswith(".csv") or name == SETTINGS):
            client.download_artifacts(run_id, name, str(folder))
    except MlflowException:
        return False
    return CLIPS_TABLE in names


def tag_state(run_id: str, state: str) -> None:
    """Tag a run with the state of its trial."""
    mlflow.MlflowClient().set_tag(run_id, STATE_TAG, state)


def log_clip(run_id: str, outcome: ClipOutcome, strip: np.ndarray) -> None:
    """Log a clip's files: ``adapters/<clip>``, ``videos/<clip>.mp4``, and a strip of frames.

    The strip lies under the image key of the clip, so that the UI's image grid sets the runs side by side.
    """
    client = mlflow.MlflowClient()
    with tempfile.TemporaryDirectory() as folder:
        export_files(Path(folder), outcome)
        client.log_artifacts(run_id, folder)
    key = re.sub(NOT_IN_IMAGE_KEYS, "_", outcome.clip.clip_id)
    client.log_image(run_id, strip, key=key, step=0, synchronous=True)


def log_summary(
    run_id: str,
    outcomes: Sequence[ClipOutcome],
    baseline: Sequence[ClipOutcome] = (),
    split: Split = "test",
) -> None:
    """Log what the outcomes of clips come to.

    - the mean of every metric over the clips of ``split`` under its own name, and over the other clips as
      ``<other split>_clips/<metric>``;
    - each clip's value as the ``<metric>_per_clip`` series whose step is its place in the manifest, and
      all of them as the table ``clips.json``;
    - with the ``baseline`` outcomes of the same clips, the mean difference from them as ``<metric>_gain``,
      since means over different clips cannot be compared;
    - the loss averaged over clips at every step;
    - seconds per clip and peak memory;
    - the tables of results.
    """
    client = mlflow.MlflowClient()
    results = [outcome.result for outcome in outcomes]
    means: dict[str, float] = {}
    for part in get_args(Split):
        members, before = (
            [outcome.result for outcome in side if outcome.clip.split == part]
            for side in (outcomes, baseline)
        )
        if members:
            prefix = "" if part == split else f"{part}_clips/"
            means |= {f"{prefix}{name}": value for name, value in _means(members, before).items()}
    metrics = [Metric(name, value, 0, 0) for name, value in means.items()]
    for index, result in enumerate(results):
        metrics += [
            Metric(f"{name}_per_clip", value, 0, index) for name, value in result.metrics.summary.items()
        ]
    losses = loss_table(results).groupby("step")["loss"].mean()
    metrics += [Metric("loss", float(loss), 0, int(str(step))) for step, loss in losses.items()]
    for first in range(0, len(metrics), MAX_BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + MAX_BATCH])
    splits = [outcome.clip.split for outcome in outcomes]
    client.log_table(run_id, clip_table(results).assign(split=splits), "clips.json")
    with tempfile.TemporaryDirectory() as folder:
        export_tables(Path(folder), outcomes)
        client.log_artifacts(run_id, folder)


def log_yardsticks(run_id: str, outcomes: Mapping[str, Sequence[ClipOutcome]]) -> None:
    """Log the means of each yardstick over the test clips, as ``yardstick_<name>/<metric>``."""
    metrics = [
        Metric(f"yardstick_{name}/{metric}", value, 0, 0)
        for name, of_clips in outcomes.items()
        if (results := [outcome.result for outcome in of_clips if outcome.clip.split == "test"])
        for metric, value in mean_metrics(results).items()
    ]
    mlflow.MlflowClient().log_batch(run_id, metrics=metrics)


def _means(results: Sequence[ClipResult], baseline: Sequence[ClipResult]) -> dict[str, float]:
    """Means of metrics and costs, and the gains over the baseline, if there is one."""
    means = mean_metrics(results) | mean_costs(results)
    before = mean_metrics(baseline) if baseline else {}
    return means | {f"{name}_gain": means[name] - value for name, value in before.items()}
