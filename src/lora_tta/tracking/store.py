"""An MLflow experiment, opened where the settings say: its runs in the store, its artifacts in their root."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
from filelock import FileLock
from mlflow.entities import Experiment, LifecycleStage
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.db.utils import create_sqlalchemy_engine
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlRun
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.file_utils import local_file_uri_to_path
from sqlalchemy import Connection, func, select, update

from lora_tta.cache.keys import digest
from lora_tta.config import TrackingParams
from lora_tta.errors import UserError
from lora_tta.files import atomic
from lora_tta.places import SERVERS, SQLITE, is_path
from lora_tta.tracking.reachable import check_store, store_error

UNSENT = "unsent"
logger = logging.getLogger(__name__)
# A server that is away is noticed in seconds, and not after MLflow's seven tries of two minutes each.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
# A bar for each of a few small files tells nothing.
MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
# Their tracebacks and retries say at length what this package says in one line.
for _noisy in (
    "mlflow.store.db.utils",
    "mlflow.system_metrics.system_metrics_monitor",
    "urllib3.connectionpool",
):
    logging.getLogger(_noisy).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Store:
    """An experiment of MLflow.

    Attributes:
        uri: of the store.
        experiment: name of the experiment, and of the model that its adapters are registered as.
        experiment_id: of the store's.
        unsent: folder for what the store does not take now.
    """

    uri: str
    experiment: str
    experiment_id: str
    unsent: Path

    @property
    def client(self) -> mlflow.MlflowClient:
        """The store's client."""
        return mlflow.MlflowClient(self.uri, self.uri)


def open_store(params: TrackingParams, cache: Path) -> Store:
    """Open the experiment, and create it and the store where they are missing.

    A server decides where artifacts go. For any other store it is ``artifact_root``, wherever it was when the
    experiment was made; runs whose files have been moved there are found there.

    Args:
        params: of the tracking.
        cache: folder of the cache, in which lies what could not be sent.

    Raises:
        UserError: the store or the root does not take runs, or the experiment was deleted.
    """
    check_store(params.uri)
    root = None if params.uri.startswith(SERVERS) else _checked_root(params.artifact_root)
    with store_errors(params.uri):
        if root is not None and params.uri.startswith(SQLITE):
            create_database(Path(params.uri.removeprefix(SQLITE)), root)
        mlflow.set_tracking_uri(params.uri)
        experiment = _experiment(params, root)
        if root is not None and experiment.lifecycle_stage == LifecycleStage.ACTIVE:
            _place_artifacts(params.uri, experiment, root)
    if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        raise UserError(
            f"tracking.experiment {params.experiment} was deleted in MLflow: set another name, or restore it "
            f"(MLFLOW_TRACKING_URI={params.uri} mlflow experiments restore -x {experiment.experiment_id})"
        )
    place = digest({"uri": params.uri, "experiment": params.experiment})[:16]
    return Store(params.uri, params.experiment, experiment.experiment_id, cache / UNSENT / place)


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn what a store raises, whose errors have many bases, into a :class:`UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise store_error(uri, error) from error


def _experiment(params: TrackingParams, root: str | None) -> Experiment:
    """The experiment, made if there is none; it may be a deleted one."""
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(params.experiment)
    if found is None:
        # Opens the experiment in the UI on its runs, not on traces of language models.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return client.get_experiment(client.create_experiment(params.experiment, root, tags))
        except MlflowException as error:
            found = client.get_experiment_by_name(params.experiment)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    return found


def _checked_root(artifact_root: str) -> str:
    """The URI of the root of artifacts; a folder is made."""
    root = Path(artifact_root).absolute().as_uri() if is_path(artifact_root) else artifact_root
    try:
        get_artifact_repository(root)
        if folder := _folder_of(root):
            folder.mkdir(parents=True, exist_ok=True)
    except (MlflowException, OSError, ImportError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"tracking.artifact_root {artifact_root} takes no files ({reason}): set a folder that can be "
            "written to, or a URI that MLflow takes"
        ) from None
    return root


def create_database(path: Path, root: str) -> None:
    """A SQLite database with MLflow's tables, whole or not at all.

    MLflow makes the tables in dozens of steps, and can't go on from where a killed process left them.

    Args:
        path: of the database; one that exists is left alone.
        root: URI of the root of artifacts.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        with atomic(path) as partial:
            store = SqlAlchemyStore(f"{SQLITE}{partial}", root)
            store._dispose_engine()


def _place_artifacts(uri: str, experiment: Experiment, root: str) -> None:
    """Let new runs write below ``root``, and let old ones be read from where their files have been moved."""
    folder, number = _folder_of(root), int(experiment.experiment_id)
    engine = create_sqlalchemy_engine(uri)
    lost = []
    try:
        with engine.begin() as database:
            if experiment.artifact_location != root:
                of_experiment = SqlExperiment.experiment_id == number
                database.execute(update(SqlExperiment).where(of_experiment).values(artifact_location=root))
            elsewhere = select(SqlRun.run_uuid, SqlRun.artifact_uri).where(
                SqlRun.experiment_id == number, ~SqlRun.artifact_uri.startswith(f"{root}/", autoescape=True)
            )
            for run_id, old in database.execute(elsewhere).all():
                if folder and (folder / run_id).is_dir():
                    _follow(database, run_id, old, f"{root}/{run_id}/artifacts")
                elif (old_folder := _folder_of(old)) and not old_folder.parents[1].exists():
                    lost.append(old_folder.parents[1])
    finally:
        engine.dispose()
    if lost:
        logger.warning(
            "%d earlier runs have their files in %s, which is not there: move what it held to %s",
            len(lost),
            lost[0],
            folder or root,
        )


def _follow(database: Connection, run_id: str, old: str, new: str) -> None:
    """Note where a run's files lie now, and with them those of the model that is registered from it."""
    versions = SqlModelVersion.run_id == run_id
    database.execute(update(SqlRun).where(SqlRun.run_uuid == run_id).values(artifact_uri=new))
    for column in (SqlModelVersion.source, SqlModelVersion.storage_location):
        moved = {column.key: func.replace(column, old, new)}
        database.execute(update(SqlModelVersion).where(versions).values(moved))


def _folder_of(uri: str) -> Path | None:
    """The folder that a URI names, None if it is elsewhere."""
    return Path(local_file_uri_to_path(uri)) if uri.startswith("file:") else None
