"""What becomes of stores that people delete, move, copy, lock and damage."""

import os
import random
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore
from mlflow.tracking._tracking_service.utils import _tracking_store_registry

from lora_tta.config import Params
from lora_tta.errors import UserError
from lora_tta.tracking.mlflow_runs import log_study, open_experiment
from lora_tta.tracking.reachable import check_store
from lora_tta.tracking.runs import tracked_run
from lora_tta.tracking.store import Store


@pytest.fixture
def tracked_in(params, empty_database):
    """Opens the store of a repository in a folder."""

    def open_in(folder: Path, **changes) -> Store:
        # As a process that has just begun: MLflow keeps what it has opened.
        _tracking_store_registry._get_store_with_resolved_uri.cache_clear()
        for kept in (TrackingStore, RegistryStore):
            kept._engine_map.clear()
        values = params.model_dump()
        values["tracking"] |= {
            "uri": f"sqlite:///{folder}/mlruns/mlflow.db",
            "artifact_root": folder / "mlruns/artifacts",
            **changes,
        }
        if not (folder / "mlruns").exists():
            (folder / "mlruns").mkdir(parents=True)
            shutil.copy(empty_database, folder / "mlruns/mlflow.db")
        return open_experiment(Params.model_validate(values).tracking, folder / "cache")

    return open_in


def log_a_file(store: Store, key: str) -> str:
    """The id of a run with an artifact."""
    with tracked_run(store, key, "trial", key) as run:
        run.send(lambda folder: (folder / "adapters").mkdir())
        run.send(lambda folder: (folder / f"{key}.txt").write_text(key))
        run.send(write_adapter)
    assert run.run_id
    return run.run_id


def write_adapter(folder: Path) -> None:
    (folder / "adapters").mkdir()
    (folder / "adapters" / "weights").write_text("weights")


def names_of(store: Store, run_id: str) -> set[str]:
    """The artifacts of a run, as a user lists them."""
    return {artifact.path for artifact in store.client.list_artifacts(run_id)}


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", [shutil.move, shutil.copytree])
def test_in_a_moved_or_copied_repository_old_runs_are_read_and_new_ones_written_there(
    tracked_in, tmp_path, place
):
    first, second = tmp_path / "a repository", tmp_path / "elsewhere/another"
    store = tracked_in(first)
    old = log_a_file(store, "old")
    log_study(store, "study", "old", {}, "", pd.DataFrame(), {})
    second.parent.mkdir()
    place(first, second)
    before = files_in(first) if first.exists() else set()

    store = tracked_in(second)
    new = log_a_file(store, "new")
    assert names_of(store, old) == {"adapters", "old.txt"}
    assert names_of(store, new) == {"adapters", "new.txt"}
    version = store.client.get_model_version_by_alias(store.experiment, "best")
    for uri in (store.client.get_run(old).info.artifact_uri, version.source):
        assert uri.startswith((second / "mlruns").as_uri())
    downloaded = mlflow.artifacts.download_artifacts(f"models:/{store.experiment}@best")
    assert files_in(Path(downloaded)) == {"weights"}
    assert (files_in(first) if first.exists() else set()) == before
    assert first.exists() == (place is shutil.copytree)


def test_with_another_root_old_runs_stay_where_they_are(tracked_in, tmp_path):
    old = log_a_file(tracked_in(tmp_path), "old")
    store = tracked_in(tmp_path, artifact_root=str(tmp_path / "mount"))
    new = log_a_file(store, "new")
    assert names_of(store, old) == {"adapters", "old.txt"}
    assert (tmp_path / "mount" / new / "artifacts/new.txt").exists()


def test_files_that_are_not_there_are_told_in_one_line_and_found_once_they_are_moved(
    tracked_in, tmp_path, caplog
):
    old = log_a_file(tracked_in(tmp_path), "old")
    (tmp_path / "mlruns/artifacts").rename(tmp_path / "kept")
    mount = tmp_path / "mount"
    tracked_in(tmp_path, artifact_root=str(mount))
    (line,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert line == (
        f"1 earlier runs have their files in {tmp_path}/mlruns/artifacts, which is not there: move what it "
        f"held to {mount}"
    )
    shutil.move(tmp_path / "kept" / old, mount)
    caplog.clear()
    assert names_of(tracked_in(tmp_path, artifact_root=str(mount)), old) == {"adapters", "old.txt"}
    assert not caplog.messages


def test_the_root_may_be_a_uri(tracked_in, tmp_path):
    store = tracked_in(tmp_path, artifact_root=(tmp_path / "by uri").as_uri())
    new = log_a_file(store, "new")
    assert (tmp_path / "by uri" / new / "artifacts/new.txt").exists()


@pytest.mark.parametrize("root", ["nowhere://bucket/runs", "/proc/none/runs"])
def test_a_root_that_takes_no_files_is_one_line(tracked_in, tmp_path, root):
    with pytest.raises(UserError, match="artifact_root") as error:
        tracked_in(tmp_path, artifact_root=root)
    assert "\n" not in str(error.value)


def test_a_deleted_experiment_is_one_line_that_says_how_to_restore_it(tracked_in, tmp_path):
    store = tracked_in(tmp_path)
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(UserError, match=rf"mlflow experiments restore -x {store.experiment_id}\)") as error:
        tracked_in(tmp_path)
    assert "\n" not in str(error.value)
    store.client.restore_experiment(store.experiment_id)
    assert tracked_in(tmp_path).experiment_id == store.experiment_id


def test_a_missing_store_is_made_again(tracked_in, tmp_path):
    log_a_file(tracked_in(tmp_path), "old")
    shutil.rmtree(tmp_path / "mlruns")
    store = tracked_in(tmp_path)
    assert names_of(store, log_a_file(store, "new")) == {"adapters", "new.txt"}


def damage(path: Path) -> None:
    path.write_bytes(b"no database" * 500)


def empty_of_pages(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'from the future'")
        database.commit()


def as_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (damage, "the file is damaged; move it away"),
        (empty_of_pages, "damaged"),
        (of_another_program, "from the future"),
        (as_a_folder, "give the path of a file"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_within_seconds(tracked_in, tmp_path, fault, advice):
    tracked_in(tmp_path)
    fault(tmp_path / "mlruns/mlflow.db")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"tracking\.uri sqlite:.* takes no runs") as error:
        tracked_in(tmp_path)
    assert time.monotonic() - began < 10
    assert advice in str(error.value)
    assert "\n" not in str(error.value)


def test_a_database_that_another_program_holds_is_one_line_within_seconds(tracked_in, tmp_path):
    tracked_in(tmp_path)
    began = time.monotonic()
    with closing(sqlite3.connect(tmp_path / "mlruns/mlflow.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="another program is writing to it; close it"):
            tracked_in(tmp_path)
    assert time.monotonic() - began < 10


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="make the file and its folder writable"):
        check_store(f"sqlite:///{tmp_path}/mlflow.db")


class Worked(Exception):  # noqa: N818
    """No fault was met."""


@pytest.mark.parametrize("seed", range(20))
def test_a_store_with_mutated_bytes_works_or_is_one_line(tracked_in, tmp_path, seed):
    tracked_in(tmp_path)
    path, draw = tmp_path / "mlruns/mlflow.db", random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 10, 1000, 20000])):
        content[draw.randrange(len(content))] = draw.randrange(256)
    path.write_bytes(content)
    with pytest.raises((UserError, Worked)) as outcome:  # noqa: PT012
        with tracked_run(tracked_in(tmp_path), "run", "trial", "run") as run:
            run.send(params={"rank": "4"})
        raise Worked
    assert "\n" not in str(outcome.value)
