"""One clip through the whole method, from a raw video on, with a tiny model."""

import numpy as np
import pytest
from prepared_clips import prepare_clips

from lora_tta.adaptation.trajectory import LoraSettings, adapt
from lora_tta.experiment import lazy_model as model_module
from lora_tta.experiment import runner as runner_module
from lora_tta.experiment.clip_run import ClipRun, export_runs, strip
from lora_tta.experiment.runner import ClipRunner
from lora_tta.records.clips import read_manifest

SETTINGS = LoraSettings(rank=2, learning_rate=1e-2, num_steps=3)


@pytest.fixture
def prepare(params, tmp_path):
    """Raw frames to a runner and its clip, in folders of their own."""

    def prepare(frames: np.ndarray, name: str) -> ClipRunner:
        folder = tmp_path / name
        own, _ = prepare_clips(params, folder, [frames])
        return ClipRunner(own, folder / "clips", folder / "encoded", snapshot_steps=[1, 3])

    return prepare


def only_clip(runner: ClipRunner):
    (clip,) = read_manifest(runner.clips)
    return clip


def content(run: ClipRun) -> dict[str, bytes]:
    """Bytes of the adapter and of the video."""
    files = {"video": run.video, "frames": run.frames_file}
    if run.adapter:
        files |= {path.name: path for path in run.adapter.glob("adapter_*")}
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.mark.parametrize("settings", [None, SETTINGS], ids=["baseline", "adapted"])
def test_frames_34_to_65_reach_nothing_but_the_metrics(prepare, moving_frames, settings):
    changed = moving_frames.copy()
    changed[33:] = np.random.default_rng(0).integers(0, 256, changed[33:].shape, dtype=np.uint8)
    runs = []
    for name, frames in (("original", moving_frames), ("changed", changed)):
        runner = prepare(frames, name)
        runs.append(runner.run(only_clip(runner), settings))
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
        runs.append(runner.run(only_clip(runner), SETTINGS))
    one, other = (content(run) for run in runs)
    assert one["adapter_model.safetensors"] != other["adapter_model.safetensors"]
    assert one["frames"] != other["frames"]


def test_two_runs_from_scratch_agree_bit_for_bit(prepare, moving_frames):
    runs = []
    for name in ("once", "twice"):
        runner = prepare(moving_frames, name)
        runs.append(runner.run(only_clip(runner), SETTINGS))
    assert content(runs[0]) == content(runs[1])
    assert runs[0].result.metrics.summary == runs[1].result.metrics.summary


def test_finished_work_is_not_done_again(prepare, moving_frames, monkeypatch):
    runner = prepare(moving_frames, "clip")
    clip = only_clip(runner)
    first = runner.run(clip, SETTINGS)

    def fail(*_, **__):
        raise AssertionError("the model was asked for")

    monkeypatch.setattr(model_module, "load_pipeline", fail)
    again = ClipRunner(runner.params, runner.clips, runner.encoded, runner.snapshot_steps)
    assert content(again.run(clip, SETTINGS)) == content(first)
    with pytest.raises(AssertionError, match="asked for"):
        again.run(clip, LoraSettings(rank=2, learning_rate=2e-2, num_steps=3))


def test_a_trajectory_serves_every_number_of_steps(prepare, moving_frames, monkeypatch):
    steps_taken = []

    def counting(*args, start=None, **options):
        steps_taken.append(args[2].num_steps - (start.num_steps if start else 0))
        return adapt(*args, start=start, **options)

    monkeypatch.setattr(runner_module, "adapt", counting)
    runner = prepare(moving_frames, "clip")
    clip = only_clip(runner)
    runner.run(clip, LoraSettings(rank=2, learning_rate=1e-2, num_steps=3))
    runner.run(clip, LoraSettings(rank=2, learning_rate=1e-2, num_steps=1))
    runner.run(clip, LoraSettings(rank=2, learning_rate=1e-2, num_steps=5))
    assert steps_taken == [3, 2]


def test_an_export_holds_tables_videos_and_adapters(prepare, moving_frames, tmp_path):
    runner = prepare(moving_frames, "clip")
    clip = only_clip(runner)
    export_runs(tmp_path / "out", [runner.run(clip, SETTINGS)])
    exported = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert exported == {
        "clips.csv",
        "frames.csv",
        "losses.csv",
        f"videos/{clip.clip_id}.mp4",
        f"adapters/{clip.clip_id}/adapter_config.json",
        f"adapters/{clip.clip_id}/adapter_model.safetensors",
    }


def test_a_strip_shows_ground_truth_above_the_continuation(prepare, moving_frames):
    runner = prepare(moving_frames, "clip")
    image = strip(runner.clips, runner.run(only_clip(runner), None))
    assert image.dtype == np.uint8
    assert image.shape[1] > image.shape[0]
