"""What MLflow shows: one parent run a study, one child a trial, and the runs of other stages beside them."""

import json
import math
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_LOGGED_IMAGES, MLFLOW_RUN_NOTE
from PIL import Image
from plotly.graph_objects import Figure

from lora_tta.cache.keys import code_version, digest
from lora_tta.config import EvaluationParams, Params, SearchParams, TrackingParams
from lora_tta.evaluation.statistics import paired_comparison
from lora_tta.experiment.export import export_files, export_tables
from lora_tta.files import file_sha256
from lora_tta.places import SQLITE
from lora_tta.records.arm_settings import SETTINGS, write_settings
from lora_tta.records.clips import MANIFEST_NAME, Split
from lora_tta.records.metric_table import metric
from lora_tta.records.outcome import ClipOutcome
from lora_tta.records.point import flatten
from lora_tta.records.results import (
    CLIPS_TABLE,
    ClipResult,
    clip_table,
    loss_table,
    mean_costs,
    mean_metrics,
    metric_names,
)
from lora_tta.tracking.reachable import check_store
from lora_tta.tracking.runs import (
    KEY_TAG,
    STATE_TAG,
    OpenRun,
    find_runs,
    send_unsent,
    study_run_id,
    tracked_run,
)
from lora_tta.tracking.store import Store, open_store

BEST_TAG = "lora_tta.best_of"
NOT_IN_IMAGE_KEYS = r"[^a-zA-Z0-9_\-. ]"
# MLflow adds up to 90 bytes to an image's key, and file names have 255 at most.
MAX_IMAGE_KEY = 120
CLIPS_JSON = "clips.json"
# The module whose imports do the work of the stages.
WORK = "lora_tta.experiment.runner"
# The columns of the table of runs, in the state that the UI keeps of a shared view.
VIEW_TAG, VIEW = "mlflow.sharedViewState.", "lora-tta"


def open_experiment(params: TrackingParams, cache: Path) -> Store:
    """Open the experiment as :func:`open_store`, and send what could not be sent before.

    Args:
        params: of the tracking.
        cache: folder of the cache.
    """
    store = open_store(params, cache)
    send_unsent(store)
    return store


def fetch_tables(params: TrackingParams, run_id: str, folder: Path) -> bool:
    """Copy the tables of results of a run into a folder; False if there is no such run, or it has none.

    Raises:
        UserError: the store does not answer.
    """
    if params.uri.startswith(SQLITE) and not Path(params.uri.removeprefix(SQLITE)).exists():
        return False  # MLflow would make one.
    check_store(params.uri)
    mlflow.set_tracking_uri(params.uri)
    client = mlflow.MlflowClient()
    try:
        names = [artifact.path for artifact in client.list_artifacts(run_id)]
        for name in (name for name in names if name.endswith(".csv") or name == SETTINGS):
            client.download_artifacts(run_id, name, str(folder))
    except MlflowException:
        return False
    return CLIPS_TABLE in names


def log_settings(run: OpenRun, settings: Mapping[str, object]) -> None:
    """Log nested settings as parameters of a run, named ``section.key``, and the sections as a file.

    Parameters are text; the file is what an arm's folder has too.
    """
    sections = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    run.send(
        lambda folder: write_settings(folder, sections),
        params={name: str(value) for name, value in flatten(settings).items()},
    )


def log_dataset(run: OpenRun, data_root: Path, clips: Path) -> None:
    """Log the manifest of the preprocessed clips as the run's data.

    Args:
        run: to log to.
        data_root: folder of the raw clips, which the data is named after.
        clips: folder of the preprocessed clips.
    """
    manifest = clips / MANIFEST_NAME
    run.send(
        dataset={
            "name": data_root.name or "data",
            "digest": file_sha256(manifest)[:16],
            "source_type": "local",
            "source": json.dumps({"uri": f"{clips.name}/{MANIFEST_NAME}"}),
        }
    )


def stage_key(params: Params, kind: str, settings: Mapping[str, object], clips: Path) -> str:
    """The key of a stage's run: the same for the same settings, clips and code."""
    parts = [settings, params.evaluation.lpips, file_sha256(clips / MANIFEST_NAME), code_version(WORK)]
    return f"{kind}/{digest({'parts': parts})[:16]}"


@contextmanager
def stage_run(
    params: Params, kind: str, settings: Mapping[str, object], clips: Path, started: int
) -> Iterator[OpenRun]:
    """The run of a stage, which takes the place of one with the same settings, clips and code.

    Args:
        params: of the pipeline.
        kind: ``baseline`` or ``final``.
        settings: that the run's results depend on.
        clips: folder of the preprocessed clips.
        started: when the stage began, in milliseconds of Unix time.
    """
    store = open_experiment(params.tracking, params.cache.path)
    manifest = file_sha256(clips / MANIFEST_NAME)
    name = f"{kind} on {params.data.root.name or 'data'} {manifest[:6]}"
    with tracked_run(store, name, kind, stage_key(params, kind, settings, clips), started=started) as run:
        log_settings(run, settings)
        log_dataset(run, params.data.root, clips)
        yield run


def log_running_mean(run: OpenRun, measure: str, value: float, num_clips: int) -> None:
    """Log the mean of a metric or cost over the first clips of a trial."""
    run.send(metrics=[(f"running_{measure}", value, time.time_ns() // 1_000_000, num_clips)])


def tag_state(run: OpenRun, state: str) -> None:
    """Tag a run with the state of its trial."""
    run.send(tags={STATE_TAG: state})


def log_clip(run: OpenRun, outcome: ClipOutcome, strip: np.ndarray) -> None:
    """Log a clip's files: ``adapters/<clip>``, ``videos/<clip>.mp4``, and a strip of frames.

    The strip lies under the image key of the clip, so that the UI's image grid sets the runs side by side.
    """

    def write(folder: Path) -> None:
        export_files(folder, outcome)
        # As MLflow's own log_image names it, which takes no folder.
        key = re.sub(NOT_IN_IMAGE_KEYS, "_", outcome.clip.clip_id)[:MAX_IMAGE_KEY]
        stamp = f"{key}+step+0+timestamp+{time.time_ns() // 1_000_000}+{uuid.uuid4()}"
        image = Image.fromarray(strip)
        (folder / "images").mkdir()
        image.save(folder / "images" / f"{stamp}.png")
        # What the grid shows. MLflow's own has 256 pixels at most, on which nothing can be judged. Pillow's
        # own method takes three times as long for a file of about the same size.
        image.save(folder / "images" / f"{stamp}+compressed.webp", method=2)

    run.send(write, tags={MLFLOW_LOGGED_IMAGES: "True"})


def log_summary(
    run: OpenRun,
    outcomes: Sequence[ClipOutcome],
    baseline: Sequence[ClipOutcome] = (),
    split: Split = "test",
    evaluation: EvaluationParams | None = None,
) -> None:
    """Log what the outcomes of clips come to.

    - the mean of every metric over the clips of ``split`` under its own name, and over the other clips as
      ``<other split>_clips/<metric>``;
    - each clip's value as the ``<metric>_per_clip`` series whose step is its place in the manifest, and
      all of them, with the captions, as the table ``clips.json``;
    - with the ``baseline`` outcomes of the same clips, the mean difference from them as ``<metric>_gain``,
      since means over different clips cannot be compared; with the settings of the ``evaluation`` also the
      interval of the primary metric's, as ``<metric>_gain_low`` and ``_high``, and a description;
    - the loss averaged over clips at every step;
    - seconds per clip and peak memory;
    - the tables of results.
    """
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
    if evaluation:
        sentence, interval = _gain(outcomes, baseline, split, evaluation)
        means |= interval
        log_result(run, sentence)
    metrics = [(name, value, 0, 0) for name, value in means.items()]
    for index, result in enumerate(results):
        metrics += [(f"{name}_per_clip", value, 0, index) for name, value in result.metrics.summary.items()]
    losses = loss_table(results).groupby("step")["loss"].mean()
    metrics += [("loss", float(loss), 0, int(str(step))) for step, loss in losses.items()]
    clips = [outcome.clip for outcome in outcomes]
    table = clip_table(results).assign(
        split=[clip.split for clip in clips], caption=[clip.caption for clip in clips]
    )

    def write(folder: Path) -> None:
        export_tables(folder, outcomes)
        table.to_json(folder / CLIPS_JSON, orient="split", index=False)

    # The tag by which the UI finds tables.
    tables = json.dumps([{"path": CLIPS_JSON, "type": "table"}])
    run.send(write, metrics=metrics, tags={MLFLOW_LOGGED_ARTIFACTS: tables})


def log_means(run: OpenRun, means: Mapping[str, float]) -> None:
    """Log the means of a trial whose clips are not at hand."""
    run.send(metrics=[(name, value, 0, 0) for name, value in means.items()])


def log_yardsticks(run: OpenRun, outcomes: Mapping[str, Sequence[ClipOutcome]]) -> None:
    """Log the means of each yardstick over the test clips, as ``yardstick_<name>/<metric>``."""
    metrics = [
        (f"yardstick_{name}/{measure}", value, 0, 0)
        for name, of_clips in outcomes.items()
        if (results := [outcome.result for outcome in of_clips if outcome.clip.split == "test"])
        for measure, value in mean_metrics(results).items()
    ]
    run.send(metrics=metrics)


def log_result(run: OpenRun, sentence: str) -> None:
    """Log the result as the run's description."""
    run.send(tags={MLFLOW_RUN_NOTE: sentence})


def log_study(
    store: Store,
    study_name: str,
    best_key: str,
    best: Mapping[str, object],
    sentence: str,
    trials: pd.DataFrame,
    figures: Mapping[str, Figure],
    registers: bool = True,
) -> None:
    """Bring the study's run up to date: the best trial, the table of trials, and figures; and close it.

    The best trial's run is tagged, and its adapters become a version of the registered model that is
    named after the experiment, with the alias ``best``.

    Args:
        store: of the runs.
        study_name: of the study.
        best_key: of the best trial's run.
        best: its settings and means, by name.
        sentence: the result.
        trials: one row a trial.
        figures: by name; they are shown without a network.
        registers: whether the best trial's adapters are the search's best.
    """
    client = store.client
    study_run = study_run_id(store, study_name)
    for name, value in ({f"best.{name}": value for name, value in best.items()}).items():
        client.set_tag(study_run, name, value)
    client.set_tag(study_run, MLFLOW_RUN_NOTE, sentence)
    client.log_metric(study_run, "trials", len(trials))
    client.log_text(study_run, trials.to_csv(index=False), "trials.csv")
    for name, figure in figures.items():
        client.log_text(study_run, figure.to_html(include_plotlyjs=True), f"figures/{name}.html")
    client.set_terminated(study_run)
    for run in client.search_runs([store.experiment_id], f"tags.`{BEST_TAG}` = '{study_name}'"):
        client.delete_tag(run.info.run_id, BEST_TAG)
    for best_run in find_runs(store, best_key)[:1]:
        client.set_tag(study_run, "best.run", best_run.info.run_id)
        client.set_tag(best_run.info.run_id, BEST_TAG, study_name)
        # A run that was made again after its clips had left the cache has none.
        if registers and client.list_artifacts(best_run.info.run_id, "adapters"):
            _register(client, store.experiment, best_run, best_key)


def show_columns(store: Store, search: SearchParams, primary: str) -> None:
    """Keep a view of the table of runs with what is searched and what came of it; see :func:`view_link`."""
    names = [f"params.`{name}`" for name in search.space]
    ends = ("", "_gain", "_gain_low", "_gain_high")
    names += [f"metrics.`{primary}{end}`" for end in ends]
    state = json.dumps({"selectedColumns": [*names, f"tags.`{STATE_TAG}`"]})
    store.client.set_experiment_tag(store.experiment_id, f"{VIEW_TAG}{VIEW}", state)


def view_link(store: Store, address: str) -> str:
    """The page of the UI at ``address`` that shows the columns of :func:`show_columns`."""
    return f"{address}/#/experiments/{store.experiment_id}/runs?viewStateShareKey={VIEW}"


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


def _gain(
    outcomes: Sequence[ClipOutcome],
    baseline: Sequence[ClipOutcome],
    split: Split,
    evaluation: EvaluationParams,
) -> tuple[str, dict[str, float]]:
    """The primary metric and its gain in a sentence, and the ends of the gain's interval by their names."""
    after, before = (
        [outcome.result for outcome in side if outcome.clip.split == split] for side in (outcomes, baseline)
    )
    row = metric(evaluation.primary)
    if not (after and row.name in metric_names(after)):
        return f"no {split} clip with {row.label}", {}
    if not before:
        mean = f"{row.label} {mean_metrics(after)[row.name]:.{row.decimals}f} {row.unit}".rstrip()
        return f"{mean} without adaptation, {len(after)} {split} clips", {}
    found = paired_comparison(
        np.array([result.by_sample(row.name) for result in before]),
        np.array([result.by_sample(row.name) for result in after]),
        row.direction,
        evaluation.bootstrap_samples,
        evaluation.seed,
    )
    sentence = f"{row.label} {found.adapted:.{row.decimals}f} {row.unit}".rstrip()
    sentence += f", {found.difference:+z.{row.difference_decimals}f} over no adaptation"
    ends = {"low": found.interval_low, "high": found.interval_high}
    ends = {f"{row.name}_gain_{end}": value for end, value in ends.items() if math.isfinite(value)}
    if ends:
        sentence += f" ({', '.join(f'{value:+z.{row.difference_decimals}f}' for value in ends.values())})"
    return f"{sentence}, {found.clips} {split} clips", ends


def _means(results: Sequence[ClipResult], baseline: Sequence[ClipResult]) -> dict[str, float]:
    """Means of metrics and costs, and the gains over the baseline, if there is one."""
    means = mean_metrics(results) | mean_costs(results)
    before = mean_metrics(baseline) if baseline else {}
    return means | {f"{name}_gain": means[name] - value for name, value in before.items()}
