"""Stages that Ctrl-C or SIGTERM ends: one line within seconds, no process left, and a rerun that goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import psutil
import pytest
from prepared_clips import prepare_clips
from ruamel.yaml import YAML
from warm_processes import warm_python

from lora_tta.config import Params
from lora_tta.errors import INTERRUPTED
from lora_tta.records.clips import read_manifest

ENDS = (signal.SIGINT, signal.SIGTERM)


class Folder:
    """A folder with all that the stages from ``baseline`` on read, in which they run."""

    def __init__(self, folder: Path, params: Params):
        self.folder = folder
        self.values = params.model_dump(mode="json")

    def start(self, stage: str, python: str = sys.executable) -> subprocess.Popen:
        YAML().dump(self.values, self.folder / "params.yaml")
        return subprocess.Popen(
            [python, "-m", f"lora_tta.stages.{stage}"],
            cwd=self.folder,
            stderr=(self.folder / "said").open("w"),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            # Whoever starts the tests in the background has them ignore some of these.
            preexec_fn=lambda: [signal.signal(sent, signal.SIG_DFL) for sent in ENDS],
        )

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def interrupt(self, stage: str, number: int, when: Callable[[], bool]) -> None:
        """Start a stage and interrupt it; checks how it ends."""
        process = self.start(stage)
        try:
            while not when():
                assert process.poll() is None, self.said()
                time.sleep(0.02)
            if number == signal.SIGINT:  # as a terminal sends it
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            assert process.wait(30)
            began = time.monotonic()
            while is_left(process.pid):
                # The server of forks, which has imported torch, ends last, and slowly on a busy machine.
                assert time.monotonic() - began < 60
                time.sleep(0.2)
        finally:
            if is_left(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
        assert "Traceback" not in self.said()
        # The line of the progress may stand before it.
        assert [
            line.endswith(f"error: {INTERRUPTED}") for line in self.said().splitlines() if "err" in line
        ] == [True]
        assert not list(self.folder.glob("outputs/.*"))


def is_left(group: int) -> bool:
    def belongs(process: psutil.Process) -> bool:
        try:
            return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, ProcessLookupError):
            return False

    return any(map(belongs, psutil.process_iter()))


@pytest.fixture
def folder(params, tmp_path, moving_frames, empty_database) -> Folder:
    outputs = tmp_path / "outputs"
    params, _ = prepare_clips(params, outputs, [moving_frames, moving_frames[::-1]])
    shutil.copy(empty_database, params.tracking.uri.removeprefix("sqlite:///"))
    (outputs / "encoded/distance.json").write_text('{"lpips": "untrained"}')
    (outputs / "search").mkdir()
    point = {"rank": 2, "learning_rate": 1e-3, "num_steps": 500}
    best = {"point": point, "study": "study", "trial": 0}
    (outputs / "search/best.json").write_text(json.dumps(best))
    folder = Folder(tmp_path, params)
    folder.values["workers"]["processes"] = 1
    return folder


@pytest.mark.slow(20)
def test_the_baseline_goes_on_with_the_clips_that_were_finished(folder):
    folder.values["workers"]["processes"] = 2
    folder.values["generation"]["num_inference_steps"] = 40
    results = folder.folder / "outputs/cache/result"

    def made() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in results.glob("*")}

    folder.interrupt("baseline", signal.SIGINT, made)
    before = made()
    assert before
    process = folder.start("baseline", warm_python())
    assert process.wait(120) == 0, folder.said()
    assert before.items() <= made().items()
    clips = read_manifest(folder.folder / "outputs/clips")
    assert len(list((folder.folder / "outputs/baseline/videos").glob("*.mp4"))) == len(clips)
    mlflow.set_tracking_uri(folder.values["tracking"]["uri"])
    assert list(mlflow.search_runs(search_all_experiments=True)["status"]) == ["FINISHED"]


@pytest.mark.slow(15)
@pytest.mark.parametrize("number", ENDS, ids=["Ctrl-C", "SIGTERM"])
def test_the_adaptation_ends_also_in_the_process_that_computes(folder, number):
    folder.interrupt("adapt", number, lambda: "%|" in folder.said())
    mlflow.set_tracking_uri(folder.values["tracking"]["uri"])
    assert "RUNNING" not in list(mlflow.search_runs(search_all_experiments=True)["status"])


@pytest.mark.slow(5)
@pytest.mark.parametrize("number", ENDS, ids=["Ctrl-C", "SIGTERM"])
def test_preprocessing_ends_without_doing_all_that_it_has_begun(folder, number):
    (video,) = (folder.folder / "outputs/raw/Sliding").glob("*c01.avi")
    for index in range(300):
        os.link(video, video.with_name(f"v_Sliding_g01_c{index:03d}.avi"))
    clips = folder.folder / "outputs/clips"
    folder.interrupt("preprocess", number, lambda: len(list(clips.glob("*.mp4"))) > 4)
    assert len(list(clips.glob("*.mp4"))) < 150


@pytest.mark.slow(5)
@pytest.mark.parametrize("stage", ["encode", "evaluate"])
def test_ctrl_c_while_a_stage_imports_is_one_line_too(folder, stage):
    began = time.monotonic()
    folder.interrupt(stage, signal.SIGINT, lambda: time.monotonic() - began > 0.7)
