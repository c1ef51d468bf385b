import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from prepared_clips import prepare_clips
from small_search import Search

from lora_tta.config import Params

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Callable[..., None]:
    """Puts shell scripts before the programs of their names."""

    def put(**scripts: str) -> None:
        for name, script in scripts.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return put


@pytest.fixture
def with_search(params):
    """The settings with some of the search's changed."""

    def change(**changes) -> Params:
        values = params.model_dump()
        values["search"] |= {
            "n_trials": 12,
            "space": {"rank": [4, 8], "learning_rate": [1e-4, 5e-4], "num_steps": [5, 10, 20]},
            **changes,
        }
        return Params.model_validate(values)

    return change


@pytest.fixture(scope="session")
def clips_once() -> dict[tuple, Path]:
    """Folders of prepared clips by their number and windows, once a test has asked for them."""
    return {}


@pytest.fixture
def search_at(
    with_search, moving_frames, empty_database, clips_once, tmp_path_factory, loaded_once
) -> Callable[..., Search]:
    """Searches that have not begun, in folders that do not exist; short windows end them sooner."""

    def build(
        folder: Path,
        num_clips: int = 2,
        workers: dict | None = None,
        windows: tuple[int, int] = (5, 4),
        **changes: Any,
    ) -> Search:
        params = with_search(
            **{
                "sampler": "grid",
                "space": {"rank": [2], "learning_rate": [1e-3, 1e-2], "num_steps": [1, 2]},
                **changes,
            }
        )
        values = params.model_dump()
        values["preprocess"] |= {"conditioning_frames": windows[0], "generated_frames": windows[1]}
        values["workers"] |= {"heartbeat_seconds": 0.3, **(workers or {})}
        values["model"]["num_threads"] = 1
        params = Params.model_validate(values)
        kind = (num_clips, windows)
        if kind not in clips_once:
            videos = [np.roll(moving_frames, 7 * number, axis=1) for number in range(num_clips)]
            clips_once[kind] = tmp_path_factory.mktemp("prepared")
            prepare_clips(params, clips_once[kind], videos)
        shutil.copytree(clips_once[kind], folder, ignore=shutil.ignore_patterns("cache"))
        shutil.copy(empty_database, folder / "mlflow.db")
        return Search(params, folder)

    return build


@pytest.fixture
def search_in(search_at, tmp_path) -> Callable[..., Search]:
    """The same, by a name."""
    return lambda name, **settings: search_at(tmp_path / name, **settings)


@pytest.fixture(scope="session")
def finished_once() -> dict[str, Search]:
    """Finished searches by their settings, once a test has asked for them."""
    return {}


@pytest.fixture
def undisturbed(search_at, finished_once, tmp_path_factory) -> Callable[..., Search]:
    """Searches that one worker in this process has finished, each once for all tests, which only read it."""

    def build(**settings: Any) -> Search:
        name = repr(sorted(settings.items()))
        if name not in finished_once:
            search = search_at(tmp_path_factory.mktemp("undisturbed") / "study", **settings)
            search.worker().work()
            finished_once[name] = search
        return finished_once[name]

    return build
