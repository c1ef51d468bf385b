import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from prepared_clips import prepare_clips

from lora_tta.config import load_params
from lora_tta.errors import FailedWork, UserError
from lora_tta.experiment import pool
from lora_tta.experiment.pool import call_in_process, clip_workers
from lora_tta.experiment.runner import ClipRunner
from lora_tta.records.outcome import ClipFailure

LIGHT_MODULE = "lora_tta.records.clips"

# Runs clips as a stage does, and tells what came back and whether it has imported torch.
STAGE = """
import pickle, sys
from lora_tta.experiment.pool import clip_workers

if __name__ == "__main__":
    params, folder, clips = pickle.load(sys.stdin.buffer)
    with clip_workers(params, folder / "clips", folder / "encoded") as run_clips:
        outcomes = run_clips(clips, None, "baseline")
    print([outcome.clip.clip_id for outcome in outcomes], "torch" in sys.modules)
"""


def test_a_function_is_called_in_another_process():
    assert call_in_process(LIGHT_MODULE, os.getppid) != os.getppid()


def test_errors_come_back_from_the_other_process():
    with pytest.raises(UserError, match=r"missing\.yaml not found"):
        call_in_process(LIGHT_MODULE, load_params, Path("missing.yaml"))


def test_clips_come_back_in_their_order_with_one_process(params, moving_frames, tmp_path):
    params, clips = prepare_clips(params, tmp_path, [moving_frames, moving_frames[::-1]])
    params = params.model_copy(update={"workers": params.workers.model_copy(update={"processes": 1})})
    with clip_workers(params, tmp_path / "clips", tmp_path / "encoded") as run_clips:
        assert [outcome.clip for outcome in run_clips(clips[::-1], None, "baseline")] == clips[::-1]


@pytest.fixture
def failing(monkeypatch):
    """Clips whose run raises, by clip id; also lists the clips that were begun."""
    errors, begun = {}, []

    def run(self, clip, point):
        begun.append(clip.clip_id)
        raise errors.get(clip.clip_id, FailedWork("the generated frames are not finite"))

    monkeypatch.setattr(ClipRunner, "run", run)
    return errors, begun


def test_more_than_a_tenth_of_failed_clips_ends_the_stage_at_once_with_the_reason(
    failing, params, moving_frames, tmp_path
):
    _, begun = failing
    params, clips = prepare_clips(params, tmp_path, [moving_frames, moving_frames[::-1]])
    params = params.model_copy(update={"workers": params.workers.model_copy(update={"processes": 1})})
    with (
        clip_workers(params, tmp_path / "clips", tmp_path / "encoded") as run_clips,
        pytest.raises(UserError, match=r"adapt: 1 of 2 clips failed.*not finite"),
    ):
        run_clips(clips, None, "adapt")
    assert len(begun) == 1


def test_a_few_failed_clips_are_handed_on_as_failures(failing, params, moving_frames, tmp_path):
    params, clips = prepare_clips(params, tmp_path, [moving_frames])
    params = params.model_copy(update={"workers": params.workers.model_copy(update={"processes": 1})})
    run = pool._run
    failure = run(params, tmp_path / "clips", tmp_path / "encoded", clips[0], None)
    assert failure == ClipFailure(clips[0], "the generated frames are not finite")
    pool._release_leases()


def test_an_error_of_the_user_is_not_a_failure_of_the_clip(failing, params, moving_frames, tmp_path):
    errors, _ = failing
    params, clips = prepare_clips(params, tmp_path, [moving_frames])
    errors[clips[0].clip_id] = UserError("evaluation.lpips is 'required'")
    params = params.model_copy(update={"workers": params.workers.model_copy(update={"processes": 1})})
    with (
        clip_workers(params, tmp_path / "clips", tmp_path / "encoded") as run_clips,
        pytest.raises(UserError, match="required"),
    ):
        run_clips(clips, None, "baseline")


@pytest.mark.slow
def test_several_processes_and_none_of_the_model_in_the_one_that_waits(params, moving_frames, tmp_path):
    params, clips = prepare_clips(params, tmp_path, [moving_frames, moving_frames[::-1]])
    params = params.model_copy(update={"workers": params.workers.model_copy(update={"processes": 2})})
    script = tmp_path / "stage.py"
    script.write_text(STAGE)
    given = pickle.dumps((params, tmp_path, clips[::-1]))
    out = subprocess.run([sys.executable, script], input=given, capture_output=True, check=True).stdout
    assert out.decode().strip() == f"{[clip.clip_id for clip in clips[::-1]]} False"
