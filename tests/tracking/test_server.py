"""Runs on a real MLflow server, which goes away and comes back."""

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from services import free_port, mlflow_server

from lora_tta.config import Params, TrackingParams
from lora_tta.errors import UserError
from lora_tta.tracking.mlflow_runs import open_experiment
from lora_tta.tracking.runs import tracked_run


class Server:
    """An MLflow server that can be stopped and started again; it takes seconds to start."""

    def __init__(self, folder: Path, database: Path):
        self.folder, self.port, self._running = folder, free_port(), ExitStack()
        shutil.copy(database, folder / "server.db")

    def start(self) -> None:
        self.address = self._running.enter_context(mlflow_server(self.folder, self.port))

    def stop(self) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_database) -> Iterator[Server]:
    """A server that runs, for the tests of this file."""
    server = Server(tmp_path_factory.mktemp("server"), empty_database)
    server.start()
    yield server
    server.stop()


def tracked_at(params: Params, uri: str, **others: str) -> TrackingParams:
    values = params.model_dump()
    values["tracking"] |= {"uri": uri, **others}
    return Params.model_validate(values).tracking


def write(name: str):
    return lambda folder: np.save(folder / f"{name}.npy", np.arange(9))


def artifacts(store, run_id: str) -> set[str]:
    return {artifact.path for artifact in store.client.list_artifacts(run_id)}


@pytest.mark.slow(10)
def test_a_server_decides_where_artifacts_go(server, params):
    store = open_experiment(tracked_at(params, server.address, experiment="artifacts"), params.cache.path)
    with tracked_run(store, "run", "final", "final/1") as run:
        run.send(write("a"))
    assert artifacts(store, run.run_id) == {"a.npy"}
    assert list((server.folder / "artifacts").rglob("a.npy"))
    assert not Path(params.tracking.artifact_root).exists()


@pytest.mark.slow(25)
def test_a_server_that_goes_away_and_comes_back_loses_nothing(server, params, caplog):
    tracking = tracked_at(params, server.address, experiment="away")
    store = open_experiment(tracking, params.cache.path)
    with tracked_run(store, "before", "trial", "study/0", "study") as before:
        before.send(write("a"))
    opened = tracked_run(store, "during", "trial", "study/1", "study")
    during = opened.__enter__()
    during.send(write("a"), metrics=[("psnr", 20.0, 0, 0)])
    server.stop()
    during.send(write("b"), params={"rank": "4"}, tags={"kept": "yes"})
    during.send(write("c"), metrics=[("ssim", 0.5, 0, 0)])
    opened.__exit__(None, None, None)
    with tracked_run(store, "after", "trial", "study/2", "study") as after:
        after.send(write("a"))
    assert after.run_id is None
    assert sum("is kept and sent later" in line for line in caplog.messages) == 2
    assert all("\n" not in line for line in caplog.messages)

    server.start()
    store = open_experiment(tracking, params.cache.path)
    runs = {run.data.tags["lora_tta.key"]: run for run in store.client.search_runs([store.experiment_id])}
    assert {key: run.info.run_name for key, run in runs.items()} == {
        "study": "study",
        "study/0": "before",
        "study/1": "during",
        "study/2": "after",
    }
    assert {run.info.status for key, run in runs.items() if key != "study"} == {"FINISHED"}
    run = runs["study/1"]
    assert run.data.metrics == {"psnr": 20.0, "ssim": 0.5}
    assert (run.data.params, run.data.tags["kept"]) == ({"rank": "4"}, "yes")
    assert artifacts(store, run.info.run_id) == {"a.npy", "b.npy", "c.npy"}
    assert artifacts(store, runs["study/2"].info.run_id) == {"a.npy"}
    assert runs["study/2"].data.tags["mlflow.parentRunId"] == runs["study"].info.run_id
    assert not list(store.unsent.iterdir())


def test_a_server_that_is_down_is_one_line_within_seconds(params):
    began = time.monotonic()
    with pytest.raises(UserError, match="start the server, or set another") as error:
        open_experiment(tracked_at(params, f"http://127.0.0.1:{free_port()}"), params.cache.path)
    assert time.monotonic() - began < 10
    assert "\n" not in str(error.value)


def test_a_server_that_does_not_answer_is_one_line_within_seconds(params):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(UserError, match="timed out"):
            open_experiment(
                tracked_at(params, f"http://127.0.0.1:{silent.getsockname()[1]}"), params.cache.path
            )
        assert time.monotonic() - began < 10


def test_a_database_server_that_is_down_is_one_line(params):
    with pytest.raises(UserError, match="start the server"):
        open_experiment(
            tracked_at(params, f"postgresql+psycopg://user@127.0.0.1:{free_port()}/runs"), params.cache.path
        )


def test_a_try_that_failed_while_the_store_was_away_is_not_sent_beside_the_one_that_succeeded(params):
    store = open_experiment(params.tracking, params.cache.path)
    database = Path(params.tracking.uri.removeprefix("sqlite:///"))
    hidden = database.rename(database.with_suffix(".hidden"))
    database.mkdir()
    with pytest.raises(OSError, match="full"), tracked_run(store, "run", "trial", "study/0"):
        raise OSError("full")
    with tracked_run(store, "run", "trial", "study/0") as run:
        run.send(params={"rank": "4"})
    database.rmdir()
    hidden.rename(database)
    store = open_experiment(params.tracking, params.cache.path)
    (sent,) = store.client.search_runs([store.experiment_id])
    assert (sent.info.status, sent.data.params) == ("FINISHED", {"rank": "4"})


def test_what_is_kept_for_one_store_is_not_sent_to_another(params, tmp_path, empty_database):
    store = open_experiment(params.tracking, params.cache.path)
    database = Path(params.tracking.uri.removeprefix("sqlite:///"))
    with tracked_run(store, "run", "final", "final/1") as run:
        hidden = database.rename(tmp_path / "hidden.db")
        database.mkdir()
        run.send(params={"rank": "4"})
    database.rmdir()
    shutil.copy(empty_database, tmp_path / "other.db")
    other = open_experiment(tracked_at(params, f"sqlite:///{tmp_path}/other.db"), params.cache.path)
    assert not other.client.search_runs([other.experiment_id])
    hidden.rename(database)
    store = open_experiment(params.tracking, params.cache.path)
    (sent,) = store.client.search_runs([store.experiment_id])
    assert (sent.info.status, sent.data.params) == ("FINISHED", {"rank": "4"})
