"""Runs of MLflow that are found by their keys, and lose nothing when the store goes away.

A run has a folder among the unsent while it is open. What the store does not take is kept there, and sent
when the run ends or when the store is next opened. The folder of a process that was killed tells that its run
is over.
"""

import json
import logging
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mlflow.entities import Dataset, DatasetInput, LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from lora_tta.errors import UserError, reason_of
from lora_tta.files import write_text
from lora_tta.tracking.reachable import check_store, short_reason
from lora_tta.tracking.store import Store

KIND_TAG, KEY_TAG, OPENED_TAG = "lora_tta.kind", "lora_tta.key", "lora_tta.opened"
STATE_TAG, FAILURE_TAG = "lora_tta.state", "lora_tta.failure"
# The most metrics that MLflow takes in one request.
MAX_BATCH = 1000
IDENTITY = "identity.json"
COMPLETE, UNSUCCESSFUL = ("FINISHED", "FAILED"), ("FAILED", "KILLED")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """What a run is created with.

    Attributes:
        name: for people.
        kind: ``study``, ``trial``, ``baseline`` or ``final``; a tag to filter by in the UI.
        key: names the run's work among all others; a tag by which the run is found again.
        parent_key: of the study's run that it belongs to, empty without one.
        started: milliseconds of Unix time.
    """

    name: str
    kind: str
    key: str
    parent_key: str = ""
    started: int = 0


class OpenRun:
    """A run that is being logged to; other threads may log too.

    Args:
        store: of the run.
        identity: of the run.
        is_owned: asked before anything is logged; a run that is not its process's any more takes nothing.
    """

    def __init__(self, store: Store, identity: Identity, is_owned: Callable[[], bool] = lambda: True):
        self._store = store
        self._identity = identity
        self._is_owned = is_owned
        self._folder = store.unsent / uuid.uuid4().hex
        self._lock = _lock_of(self._folder)
        self._keeping = threading.Lock()
        self._kept = 0
        self._monitor: SystemMetricsMonitor | None = None
        self.run_id: str | None = None
        self.has_ended = False
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        _drop_failed(store, identity.key)
        self._lock.acquire(timeout=0)
        write_text(self._folder / IDENTITY, json.dumps(asdict(identity)))
        try:
            self.run_id = _create(store, identity, self._folder.name)
        except Exception as error:
            self._keep({}, None, error)
        else:
            self._monitor = _begun_monitor(store, self.run_id)

    def send(self, write_files: Callable[[Path], None] | None = None, **content: Any) -> None:
        """Log something now, or keep it for later if the store does not take it.

        Args:
            write_files: writes artifacts into a folder.
            content: see :func:`_apply`.
        """
        if self.has_ended or not self._is_owned():
            return
        with tempfile.TemporaryDirectory() as temporary:
            files = None
            if write_files:
                files = Path(temporary)
                write_files(files)
            if self.run_id is None or self._kept:
                self._keep(content, files)
                return
            try:
                _apply(self._store, self.run_id, self._identity, content, files)
            except Exception as error:
                self._keep(content, files, error)

    def end(self, status: str, tags: Mapping[str, str] | None = None, ended: int | None = None) -> None:
        """End the run, and try once more to send what was kept of it.

        Args:
            status: ``FINISHED``, ``FAILED``, or ``KILLED`` if it was interrupted.
            tags: to be set before.
            ended: milliseconds of Unix time, now if None.
        """
        if self.has_ended:
            return
        if self._monitor:
            self._monitor.finish()
        self.send(tags=dict(tags or {}), status=status, ended=ended or _now())
        self.has_ended = True
        is_kept = self._kept and self._is_owned()
        if not is_kept:
            shutil.rmtree(self._folder)
        self._lock.release()
        if is_kept:
            send_unsent(self._store)
        else:
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def _keep(self, content: Mapping[str, Any], files: Path | None, error: Exception | None = None) -> None:
        with self._keeping:
            if not self._kept and error:
                logger.warning(
                    "MLflow does not take the run %s now (%s): it is kept and sent later",
                    self._identity.name,
                    short_reason(error),
                )
            name = f"{self._kept:06d}"
            self._kept += 1
            if files:
                shutil.copytree(files, self._folder / name)
            write_text(self._folder / f"{name}.json", json.dumps(content))


@contextmanager
def tracked_run(
    store: Store,
    name: str,
    kind: str,
    key: str,
    parent_key: str = "",
    is_owned: Callable[[], bool] = lambda: True,
    started: int | None = None,
) -> Iterator[OpenRun]:
    """A run that is open inside the ``with`` and ends as FINISHED, as FAILED with its reason, or as KILLED.

    It takes the place of an earlier run of the same key: at once of one that was left unfinished, and at its
    end of one that is finished.

    Args:
        store: of the run.
        name: see :class:`Identity`, as for the next ones.
        kind: of the run.
        key: of the run.
        parent_key: of the study's run.
        is_owned: see :class:`OpenRun`.
        started: when the work began, in milliseconds of Unix time; now if None.
    """
    run = OpenRun(store, Identity(name, kind, key, parent_key, started or _now()), is_owned)
    try:
        yield run
    except KeyboardInterrupt:
        run.end("KILLED", {MLFLOW_RUN_NOTE: "Interrupted before its end", STATE_TAG: "interrupted"})
        raise
    except BaseException as error:
        reason = reason_of(error)
        run.end("FAILED", {FAILURE_TAG: reason, MLFLOW_RUN_NOTE: f"Failed: {reason}", STATE_TAG: "failed"})
        raise
    run.end("FINISHED")


def send_unsent(store: Store) -> None:
    """Send what was kept while the store was away, and end the runs of processes that were killed.

    What it does not take now either is kept, and one line says so.
    """
    waiting = [path.parent for path in store.unsent.glob(f"*/{IDENTITY}")]
    try:
        if waiting:
            check_store(store.uri)
        for folder in sorted(waiting, key=lambda folder: folder.stat().st_mtime):
            try:
                with _lock_of(folder):
                    if (folder / IDENTITY).exists():
                        _send_folder(store, folder)
            except Timeout:  # of a living process
                continue
            Path(_lock_of(folder).lock_file).unlink(missing_ok=True)
    except (UserError, MlflowException, OSError) as error:
        left = len(list(store.unsent.glob(f"*/{IDENTITY}")))
        logger.warning(
            "MLflow does not take %d runs yet (%s): they are kept in %s, and the next stage or search "
            "sends them",
            left,
            short_reason(error),
            store.unsent,
        )


def find_runs(store: Store, key: str) -> list[Run]:
    """The visible runs of a key."""
    return _search(store, f"tags.`{KEY_TAG}` = '{key}'")


def ended_keys(store: Store, beginning: str) -> set[str]:
    """Those keys that begin like this and whose runs are complete in the store, or kept to be sent."""
    keys = {
        run.data.tags[KEY_TAG]
        for run in _search(store, f"tags.`{KEY_TAG}` LIKE '{beginning}%'")
        if run.info.status in COMPLETE
    }
    for path in store.unsent.glob(f"*/{IDENTITY}"):
        key = json.loads(path.read_text())["key"]
        if key.startswith(beginning) and _status(path.parent) in COMPLETE:
            keys.add(key)
    return keys


def study_run_id(store: Store, study_name: str) -> str:
    """The id of the study's run, created if there is none. Not safe without a lock around it."""
    runs = find_runs(store, study_name)
    if runs:
        return runs[0].info.run_id
    return _create(store, Identity(study_name, "study", study_name, started=_now()), uuid.uuid4().hex)


def _create(store: Store, identity: Identity, opened: str) -> str:
    for run in find_runs(store, identity.key):
        if run.info.status != "FINISHED":
            store.client.delete_run(run.info.run_id)
    tags = {KIND_TAG: identity.kind, KEY_TAG: identity.key, OPENED_TAG: opened}
    if identity.parent_key:
        tags[MLFLOW_PARENT_RUN_ID] = study_run_id(store, identity.parent_key)
    created = store.client.create_run(
        store.experiment_id, identity.started, resolve_tags(tags), run_name=identity.name
    )
    return created.info.run_id


def _apply(
    store: Store, run_id: str, identity: Identity, content: Mapping[str, Any], files: Path | None
) -> None:
    """Log to a run.

    Args:
        store: of the run.
        run_id: of the run.
        identity: of the run.
        content: ``params`` and ``tags`` by name; ``metrics`` as (name, value, time stamp, step); ``dataset``
            as the attributes of MLflow's entity; and at the run's end ``status`` and ``ended``.
        files: folder of artifacts.
    """
    client = store.client
    metrics = [Metric(*values) for values in content.get("metrics", ())]
    for first in range(0, len(metrics), MAX_BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + MAX_BATCH])
    params = [Param(name, value) for name, value in content.get("params", {}).items()]
    tags = [RunTag(name, value) for name, value in content.get("tags", {}).items()]
    if params or tags:
        client.log_batch(run_id, params=params, tags=tags)
    if dataset := content.get("dataset"):
        client.log_inputs(run_id, [DatasetInput(Dataset(**dataset))])
    if files:
        client.log_artifacts(run_id, str(files))
    if status := content.get("status"):
        client.set_terminated(run_id, status, content["ended"])
        # A run that failed leaves an earlier one that did not.
        for other in find_runs(store, identity.key) if status == "FINISHED" else ():
            if other.info.run_id != run_id:
                client.delete_run(other.info.run_id)


def _send_folder(store: Store, folder: Path) -> None:
    """Send what is kept of an ended run, and end one that its process did not; the caller holds its lock."""
    client = store.client
    runs = _search(store, f"tags.`{OPENED_TAG}` = '{folder.name}'", ViewType.ALL)
    is_deleted = bool(runs) and runs[0].info.lifecycle_stage == LifecycleStage.DELETED
    if not is_deleted and _is_complete(folder):
        identity = Identity(**json.loads((folder / IDENTITY).read_text()))
        run_id = runs[0].info.run_id if runs else _create(store, identity, folder.name)
        for path in _entries(folder):
            files = path.with_suffix("")
            _apply(store, run_id, identity, json.loads(path.read_text()), files if files.exists() else None)
    elif runs and not is_deleted and runs[0].info.status == "RUNNING":
        client.set_tag(runs[0].info.run_id, MLFLOW_RUN_NOTE, "Killed before its end")
        client.set_terminated(runs[0].info.run_id, "KILLED")
    shutil.rmtree(folder)


def _drop_failed(store: Store, key: str) -> None:
    """Forget what is kept of earlier tries of the same work that failed or were interrupted."""
    for path in store.unsent.glob(f"*/{IDENTITY}"):
        try:
            with _lock_of(path.parent):
                if json.loads(path.read_text())["key"] == key and _status(path.parent) in UNSUCCESSFUL:
                    shutil.rmtree(path.parent)
        except (Timeout, FileNotFoundError):  # of a living process, or sent by one
            continue


def _entries(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.glob("*.json") if path.name != IDENTITY)


def _is_complete(folder: Path) -> bool:
    """Whether the end of the run is among what is kept."""
    return _status(folder) is not None


def _status(folder: Path) -> str | None:
    """The status at the end of a run, None if that is not among what is kept."""
    entries = _entries(folder)
    return json.loads(entries[-1].read_text()).get("status") if entries else None


def _search(store: Store, condition: str, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    found: list[Run] = []
    token = None
    while token is not None or not found:
        page = store.client.search_runs([store.experiment_id], condition, view, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    return found


def _begun_monitor(store: Store, run_id: str) -> SystemMetricsMonitor | None:
    """Log use of processor, memory and GPUs, unless MLflow's own setting forbids it."""
    if not (MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() or not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.is_set()):
        return None
    monitor = SystemMetricsMonitor(run_id, tracking_uri=store.uri)
    monitor.start()
    return monitor


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder.with_suffix(".lock"), timeout=0, thread_local=False)


def _now() -> int:
    return time.time_ns() // 1_000_000
