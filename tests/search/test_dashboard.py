"""Optuna's dashboard on a study, started as the Makefile does."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from small_search import claim_point

from lora_tta.config import Params, load_params
from lora_tta.search.study import open_study
from lora_tta.stages.paths import STUDY

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def dashboard(tmp_path):
    """Starts the command of ``make dashboard`` in ``tmp_path``, on a free port, and returns its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    recipe = re.search(r"^dashboard:.*\n\t(.+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [*shlex.split(recipe[1]), f"--port={port}"]
    processes = []

    def start() -> str:
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment))
        return f"http://127.0.0.1:{port}"

    yield start
    for process in processes:
        process.terminate()
        process.wait()


def ask(url: str) -> dict:
    """The answer of a server that may still be starting."""
    for _ in range(300):
        try:
            with urlopen(url) as answer:
                return json.load(answer)
        except URLError:
            time.sleep(0.1)
    raise TimeoutError(url)


def test_the_dashboard_opens_on_the_stored_study(dashboard, tmp_path, with_search):
    values = with_search(n_trials=3).model_dump()
    values["cache"]["path"] = tmp_path / load_params(REPOSITORY / "params.yaml").cache.path
    params = Params.model_validate(values)
    study = open_study(tmp_path / STUDY, params, {})
    for value in (15.0, 17.0, 16.0):
        study.tell(claim_point(study, params.search), value)
    address = dashboard()
    (summary,) = ask(f"{address}/api/studies")["study_summaries"]
    assert summary["study_name"] == study.study_name
    detail = ask(f"{address}/api/studies/{summary['study_id']}")
    assert [trial["values"] for trial in detail["trials"]] == [[15.0], [17.0], [16.0]]
    assert detail["best_trials"][0]["number"] == 1
