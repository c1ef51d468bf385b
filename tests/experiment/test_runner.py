"""One clip through the whole method, from a raw video on, with a tiny model."""

import numpy as np
import pytest
from prepared_clips import prepare_clips

from lora_tta.adaptation.trajectory import adapt
from lora_tta.config import Params
from lora_tta.errors import FailedWork
from lora_tta.experiment import lazy_model as model_module
from lora_tta.experiment import runner as runner_module
from lora_tta.experiment.export import export_outcomes, strip
from lora_tta.experiment.runner import ClipRunner
from lora_tta.records.clips import read_manifest
from lora_tta.records.outcome import ClipFailure, ClipOutcome

POINT = {"rank": 2, "learning_rate": 1e-2, "num_steps": 3}


@pytest.fixture
def prepare(params, tmp_path):
    """Raw frames to a runner and its clip, in folders of their own."""

    def prepare(frames: np.ndarray, name: str) -> ClipRunner:
        folder = tmp_path / name
        own, _ = prepare_clips(params, folder, [frames])
        return ClipRunner(own, folder / "clips", folder / "encoded")

    return prepare


def only_clip(runner: ClipRunner):
    (clip,) = read_manifest(runner.clips_folder)
    return clip


def content(run: ClipOutcome) -> dict[str, bytes]:
    """Bytes of the adapter and of the video."""
    files = {"video": run.video, "frames": run.frames_file}
    if run.adapter:
        files |= {path.name: path for path in run.adapter.glob("adapter_*")}
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.mark.parametrize("point", [None, POINT], ids=["baseline", "adapted"])
def test_frames_34_to_65_reach_nothing_but_the_metrics(prepare, moving_frames, point):
    changed = moving_frames.copy()
    changed[33:] = np.random.default_rng(0).integers(0, 256, changed[33:].shape, dtype=np.uint8)
    runs = []
    for name, frames in (("original", moving_frames), ("changed", changed)):
        runner = prepare(frames, name)
        runs.append(runner.run(only_clip(runner), point))
    assert runs[0].clip.sha256 != runs[1].clip.sha256
    assert content(runs[0]) == content(runs[1])
    assert runs[0].result.losses == runs[1].result.losses
    assert runs[0].result.metrics.summary["psnr"] != runs[1].result.metrics.summary["psnr"]


def test_a_change_in_frames_1_to_33_does_reach_adapter_and_video(prepare, moving_frames):
    changed = moving_frames.copy()
    changed[10] = 255 - changed[10]
    runs = []
    for name, frames in (("original", moving_frames), ("changed", changed)):
        runner = prepare(frames, name)
        runs.append(runner.run(only_clip(runner), POINT))
    one, other = (content(run) for run in runs)
    assert one["adapter_model.safetensors"] != other["adapter_model.safetensors"]
    assert one["frames"] != other["frames"]


def test_two_runs_from_scratch_agree_bit_for_bit(prepare, moving_frames):
    runs = []
    for name in ("once", "twice"):
        runner = prepare(moving_frames, name)
        runs.append(runner.run(only_clip(runner), POINT))
    assert content(runs[0]) == content(runs[1])
    assert runs[0].result.metrics.summary == runs[1].result.metrics.summary


def test_finished_work_is_not_done_again(prepare, moving_frames, monkeypatch):
    runner = prepare(moving_frames, "clip")
    clip = only_clip(runner)
    first = runner.run(clip, POINT)

    def fail(*_, **__):
        raise AssertionError("the model was asked for")

    monkeypatch.setattr(model_module, "load_backbone", fail)
    again = ClipRunner(runner.params, runner.clips_folder, runner.encoded)
    assert content(again.run(clip, POINT)) == content(first)
    with pytest.raises(AssertionError, match="asked for"):
        again.run(clip, POINT | {"learning_rate": 2e-2, "num_steps": 3})


def test_a_trajectory_serves_every_number_of_steps(prepare, moving_frames, monkeypatch):
    steps_taken = []

    def counting(*args, start=None, **options):
        steps_taken.append(args[3].num_steps - (start.num_steps if start else 0))
        return adapt(*args, start=start, **options)

    monkeypatch.setattr(runner_module, "adapt", counting)
    runner = prepare(moving_frames, "clip")
    clip = only_clip(runner)
    runner.run(clip, POINT | {"learning_rate": 1e-2, "num_steps": 3})
    runner.run(clip, POINT | {"learning_rate": 1e-2, "num_steps": 1})
    runner.run(clip, POINT | {"learning_rate": 1e-2, "num_steps": 5})
    assert steps_taken == [3, 2]


def test_an_export_holds_tables_videos_adapters_and_failures_but_no_costs(prepare, moving_frames, tmp_path):
    runner = prepare(moving_frames, "clip")
    clip = only_clip(runner)
    failure = ClipFailure(clip, "the training loss is nan at step 1")
    export_outcomes(tmp_path / "out", [runner.run(clip, POINT)], [failure])
    exported = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert exported == {
        "clips.csv",
        "frames.csv",
        "losses.csv",
        "failed.csv",
        f"videos/{clip.clip_id}.mp4",
        f"adapters/{clip.clip_id}/adapter_config.json",
        f"adapters/{clip.clip_id}/adapter_model.safetensors",
    }
    assert "seconds" not in (tmp_path / "out" / "clips.csv").read_text()


def test_a_strip_shows_ground_truth_above_the_continuation(prepare, moving_frames):
    runner = prepare(moving_frames, "clip")
    image = strip(runner.clips_folder, runner.run(only_clip(runner), None))
    assert image.dtype == np.uint8
    assert image.shape[1] > image.shape[0]


def test_an_optimisation_that_diverges_fails_and_leaves_no_adapter(prepare, moving_frames):
    runner = prepare(moving_frames, "clip")
    with pytest.raises(FailedWork, match="loss is"):
        runner.run(only_clip(runner), POINT | {"learning_rate": 1e30, "num_steps": 20})
    assert not list(runner.cache.root.glob("result/*"))


def test_an_adapter_is_stored_once_and_the_optimisers_state_apart(prepare, moving_frames):
    runner = prepare(moving_frames, "clip")
    runner.run(only_clip(runner), POINT)
    weights = list(runner.cache.root.glob("adapter/*/adapter/adapter_model.safetensors"))
    states = list(runner.cache.root.glob("optimizer/*/optimizer.pt"))
    assert len(weights) == len(states) == 2  # after 1 and 3 steps
    assert not list(runner.cache.root.glob("adapter/*/*.pt"))


def test_the_study_is_another_with_other_fixed_settings_but_not_with_other_points(prepare, moving_frames):
    runner = prepare(moving_frames, "clip")
    clips = read_manifest(runner.clips_folder)

    def identity(section: str, **changes) -> dict:
        values = runner.params.model_dump()
        values[section] |= changes
        own = ClipRunner(Params.model_validate(values), runner.clips_folder, runner.encoded)
        return own.study_identity(clips)

    same = runner.study_identity(clips)
    assert identity("adaptation", learning_rate=0.5) == same  # searched, so the setting itself is not used
    assert identity("adaptation", weight_decay=0.5) != same
    assert identity("generation", num_inference_steps=3) != same
