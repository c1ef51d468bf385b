"""What one sees first in MLflow's UI, in a real browser."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from services import free_port

from lora_tta.cli.main import main
from lora_tta.stages.stage_params import load_stage_params
from lora_tta.tracking.mlflow_runs import open_experiment
from lora_tta.tracking.runs import tracked_run
from lora_tta.tracking.store import Store

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SEARCHED = {"rank": "4", "learning_rate": "0.00123", "num_steps": "7"}
GAINS = {"psnr": 17.5, "psnr_gain": 0.625, "psnr_gain_low": 0.375, "psnr_gain_high": 0.875}


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A folder with the repository's settings, in which commands run."""
    shutil.copy(Path(__file__).parents[2] / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tracked(workspace, empty_database) -> Store:
    """A store with a run, in the folder of a repository."""
    (workspace / "mlruns").mkdir()
    shutil.copy(empty_database, workspace / "mlruns/mlflow.db")
    params = load_stage_params()
    store = open_experiment(params.tracking, params.cache.path)
    with tracked_run(store, "final on data", "final", "final/0") as run:
        run.send(params=SEARCHED, metrics=[(name, value, 0, 0) for name, value in GAINS.items()])
    return store


@pytest.mark.slow(40)
def test_the_printed_link_shows_what_was_searched_and_what_came_of_it(tracked, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    port = free_port()
    command = [sys.executable, "-m", "lora_tta.cli.main", "ui", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        link = re.search(r"http://\S+", server.stdout.readline())[0]
        assert link.startswith(f"http://127.0.0.1:{port}/")
        wait_until_it_answers(link)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
        flags += [f"--user-data-dir={tmp_path}/browser", "--window-size=2400,900", "--dump-dom"]
        page = subprocess.run(
            [browser, *flags, link], capture_output=True, text=True, timeout=120, check=True
        )
    finally:
        server.terminate()
        server.wait()
    shown = {*SEARCHED, *SEARCHED.values(), *GAINS, *map(str, GAINS.values()), "final on data"}
    assert {text for text in shown if text not in page.stdout} == set()


def wait_until_it_answers(link: str) -> None:
    for _ in range(1200):
        try:
            with urlopen(link.partition("#")[0]):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(link)


def test_without_its_store_the_ui_is_one_line(workspace, capsys):
    assert main(["params", "tracking.uri=http://127.0.0.1:9"]) == 0
    assert main(["ui"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: tracking.uri http://127.0.0.1:9 takes no runs")
    assert message.count("\n") == 1
