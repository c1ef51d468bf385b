"""One clip through the whole method, from a raw video on, with a tiny model."""

import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from prepared_clips import prepare_clips
from safetensors.torch import load_file

from lora_tta.adaptation.methods import lora
from lora_tta.adaptation.trajectory import Snapshot, adapt
from lora_tta.cache.store import LOCKS, ContentCache
from lora_tta.config import Params
from lora_tta.data.video import read_clip_frames, write_video
from lora_tta.errors import FailedWork, UserError
from lora_tta.evaluation.frame_metrics import MAX_PSNR
from lora_tta.experiment import lazy_model as model_module
from lora_tta.experiment import runner as runner_module
from lora_tta.experiment.beside import Beside
from lora_tta.experiment.export import export_files, export_tables, strip
from lora_tta.experiment.pool import run_arms
from lora_tta.experiment.runner import ClipRunner
from lora_tta.records.clips import Clip, read_manifest
from lora_tta.records.outcome import ClipFailure, ClipOutcome
from lora_tta.records.yardsticks import LAST_FRAME, OTHER_SEED, YARDSTICKS

POINT = {"rank": 2, "learning_rate": 1e-2, "num_steps": 3}


@pytest.fixture
def prepare(params, tmp_path, loaded_once):
    """Raw frames to a runner and its clip, in folders of their own."""

    def prepare(frames: np.ndarray, name: str) -> ClipRunner:
        folder = tmp_path / name
        own, _ = prepare_clips(params, folder, [frames])
        return ClipRunner(own, folder / "clips", folder / "encoded")

    return prepare


@pytest.fixture
def runner(ready) -> ClipRunner:
    return ready.runner()


@pytest.fixture
def clip(ready) -> Clip:
    return ready.clips[0]


def only_clip(runner: ClipRunner) -> Clip:
    (clip,) = read_manifest(runner.clips_folder)
    return clip


def content(run: ClipOutcome) -> dict[str, bytes]:
    """Bytes of the adapter and of the video."""
    files = {"video": run.video, "frames": run.frames_file}
    if run.adapter:
        files |= {path.name: path for path in run.adapter.glob("adapter_*")}
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.mark.slow(7)
@pytest.mark.parametrize(
    ("point", "changes"),
    [
        (None, {}),
        (POINT, {}),
        (
            POINT,
            {
                "stopping": {
                    "held_out": 2,
                    "every": 1,
                    "patience": 2,
                    "draws": 2,
                    "min_gain": 0.0,
                    "refit": True,
                }
            },
        ),
        (POINT, {"augmentation": {"flips": True, "rotation": 10.0, "crop": 0.8, "speeds": True}}),
    ],
    ids=["baseline", "adapted", "stopped by the known frames", "with other views"],
)
def test_frames_34_to_65_reach_nothing_but_the_metrics(prepare, moving_frames, point, changes):
    changed = moving_frames.copy()
    changed[33:] = np.random.default_rng(0).integers(0, 256, changed[33:].shape, dtype=np.uint8)
    runs = []
    for name, frames in (("original", moving_frames), ("changed", changed)):
        runner = with_setting(prepare(frames, name), "adaptation", **changes)
        runs.append(runner.run(only_clip(runner), point))
    assert runs[0].clip.sha256 != runs[1].clip.sha256
    assert content(runs[0]) == content(runs[1])
    assert runs[0].result.losses == runs[1].result.losses
    assert runs[0].result.metrics.summary["psnr"] != runs[1].result.metrics.summary["psnr"]


@pytest.mark.slow(12)
@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("known", [1, 9, 17, 49])
def test_with_any_number_of_known_frames_the_others_reach_nothing_but_the_metrics(
    params, moving_frames, tmp_path, known
):
    """Image to video with one, and continuations of more or fewer frames than the published 33."""
    params = changed_setting(params, "preprocess", conditioning_frames=known, generated_frames=12)
    changed = moving_frames.copy()
    changed[known:] = np.random.default_rng(0).integers(0, 256, changed[known:].shape, dtype=np.uint8)
    runs = []
    for name, frames in (("original", moving_frames), ("changed", changed)):
        own, clips = prepare_clips(params, tmp_path / name, [frames])
        runner = ClipRunner(own, tmp_path / name / "clips", tmp_path / name / "encoded")
        runs.append([runner.run(clips[0], arm) for arm in (None, POINT, LAST_FRAME)])
    for one, other in zip(*runs, strict=True):
        assert content(one) == content(other)
        assert one.result.losses == other.result.losses
        assert one.result.metrics.summary["psnr"] != other.result.metrics.summary["psnr"]
        assert np.load(one.frames_file).shape == (known + 12, 32, 48, 3)
        assert one.result.conditioning_frames == known
        assert len(one.result.metrics.per_frame["psnr"]) == 12
    assert strip(runner.clips_folder, runs[1][0]).shape[1] > 168


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


@pytest.mark.parametrize("arm", [None, "reconstruction"])
def test_a_clip_whose_file_was_changed_is_noticed_and_no_work_is_done_with_it(
    runner, clip, arm, moving_frames
):
    path = runner.clips_folder / clip.file_name
    write_video(path, moving_frames[:65, :32, :48], clip.fps)
    with pytest.raises(
        UserError, match=rf"{clip.file_name} is not the clip of manifest\.csv .* dvc checkout"
    ):
        runner.run(clip, arm)
    assert not list(runner.params.cache.path.glob("result/*"))


def test_views_of_a_clip_are_encoded_once(ready, clip):
    views = {"flips": True, "rotation": 0.0, "crop": 0.8, "speeds": True}
    runner = with_setting(ready.runner(), "adaptation", augmentation=views)
    plain = ready.runner().run(clip, POINT)
    adapted = runner.run(clip, POINT)
    assert adapted.result.losses != plain.result.losses
    encoded = {
        entry.name: entry.stat().st_mtime_ns for entry in (runner.cache.root / "conditioning").iterdir()
    }
    assert len(encoded) == 4
    files = (runner.cache.root / "conditioning").glob("*/*.safetensors")
    assert all(load_file(file).keys() == {"reference_latents", "pace"} for file in files)
    runner.run(clip, POINT | {"learning_rate": 2e-2})
    again = {entry.name: entry.stat().st_mtime_ns for entry in (runner.cache.root / "conditioning").iterdir()}
    assert again.keys() == encoded.keys()


def test_finished_work_is_not_done_again(runner, clip, monkeypatch):
    first = runner.run(clip, POINT)

    def fail(*_, **__):
        raise AssertionError("the model was asked for")

    monkeypatch.setattr(model_module, "load_backbone", fail)
    again = ClipRunner(runner.params, runner.clips_folder, runner.encoded)
    assert content(again.run(clip, POINT)) == content(first)
    with pytest.raises(AssertionError, match="asked for"):
        again.run(clip, POINT | {"learning_rate": 2e-2, "num_steps": 3})


def test_a_runner_with_other_settings_loads_nothing_again(runner, clip, monkeypatch):
    """The same clip is generated by the other settings, and the first runner keeps its own."""
    first = runner.run(clip, POINT)
    for module, name in ((runner_module, "load_perceptual_distance"), (model_module, "load_backbone")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("loaded again"))
    generation = runner.params.generation.model_copy(update={"seed": 1})
    other = runner.at(runner.params.model_copy(update={"generation": generation}))
    outcome = other.run(clip, POINT)
    assert content(outcome)["frames"] != content(first)["frames"]
    assert outcome.adapter == first.adapter
    assert runner.run(clip, POINT).video == first.video
    assert runner.run(clip, None).result.seed != other.run(clip, None).result.seed


def test_a_trajectory_serves_every_number_of_steps(runner, clip, monkeypatch):
    steps_taken = []

    def counting(*args, start=None, **options):
        steps_taken.append(args[3].num_steps - (start.num_steps if start else 0))
        return adapt(*args, start=start, **options)

    monkeypatch.setattr(runner_module, "adapt", counting)
    runner.run(clip, POINT | {"learning_rate": 1e-2, "num_steps": 3})
    runner.run(clip, POINT | {"learning_rate": 1e-2, "num_steps": 1})
    runner.run(clip, POINT | {"learning_rate": 1e-2, "num_steps": 5})
    assert steps_taken == [3, 2]


def test_an_export_holds_tables_videos_adapters_and_failures_but_no_costs(runner, clip, tmp_path):
    failure = ClipFailure(clip, "the training loss is nan at step 1")
    outcome = runner.run(clip, POINT)
    export_files(tmp_path / "out", outcome)
    export_tables(tmp_path / "out", [outcome], [failure])
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


def test_a_strip_shows_ground_truth_above_the_continuation(runner, clip):
    image = strip(runner.clips_folder, runner.run(clip, None))
    assert image.dtype == np.uint8
    assert image.shape[1] > image.shape[0]


def test_an_optimisation_that_diverges_fails_and_leaves_no_adapter(runner, clip):
    with pytest.raises(FailedWork, match="loss is"):
        runner.run(clip, POINT | {"learning_rate": 1e30, "num_steps": 20})
    assert not list(runner.cache.root.glob("result/*"))


def test_an_adapter_is_stored_once_and_the_optimisers_state_apart(runner, clip):
    runner.run(clip, POINT)
    weights = list(runner.cache.root.glob("adapter/*/adapter/adapter_model.safetensors"))
    states = list(runner.cache.root.glob("optimizer/*/optimizer.pt"))
    assert len(weights) == len(states) == 2  # after 1 and 3 steps
    assert not list(runner.cache.root.glob("adapter/*/*.pt"))


def test_the_study_is_another_with_other_fixed_settings_but_not_with_other_points(runner, ready):
    clips = ready.clips

    def identity(section: str, **changes) -> dict:
        values = runner.params.model_dump()
        values[section] |= changes
        own = ClipRunner(Params.model_validate(values), runner.clips_folder, runner.encoded)
        return own.study_identity(clips)

    same = runner.study_identity(clips)
    assert identity("adaptation", learning_rate=0.5) == same  # searched, so the setting itself is not used
    assert identity("adaptation", weight_decay=0.5) != same
    assert identity("generation", num_inference_steps=3) != same


# What needs no model is done by a thread beside the model's work on a GPU. Here the thread is beside a model
# on the CPU, and may be as late as it likes.
TIMEOUT = 60  # seconds, which only a test that fails waits


@pytest.fixture
def threaded(ready, tmp_path) -> ClipRunner:
    """A runner with a thread beside its model, and a cache of its own."""
    ready.change("cache", path=tmp_path / "other_cache")
    runner = ready.runner()
    runner.beside = Beside(threaded=True, num_threads=1)
    return runner


def run_all(runner: ClipRunner, clips: list[Clip]) -> list[ClipOutcome]:
    """Each clip adapted and not, all begun before the first result is asked for."""
    with runner.working():
        futures = [runner.begin(clip, point) for clip in clips for point in (POINT, None)]
        return [future.result(TIMEOUT) for future in futures]


def snapshots(runner: ClipRunner) -> dict[str, tuple[bytes, dict]]:
    """Adapters and optimisers' states by their keys."""
    adapters = {path.name: path for path in runner.cache.root.glob("adapter/*")}
    return {
        name: (
            (path / "adapter" / "adapter_model.safetensors").read_bytes(),
            torch.load(runner.cache.root / "optimizer" / name / "optimizer.pt"),
        )
        for name, path in adapters.items()
    }


def held_locks(runner: ClipRunner) -> list[str]:
    """The locks of a runner's cache that somebody holds."""
    held = []
    for path in (runner.cache.root / LOCKS).glob("*.lock"):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            held.append(path.name)
    return held


def test_a_thread_beside_the_model_changes_no_bit(runner, threaded, ready):
    inline, beside = run_all(runner, ready.clips), run_all(threaded, ready.clips)
    for one, other in zip(inline, beside, strict=True):
        assert content(one) == content(other)
        assert one.result.losses == other.result.losses
        assert one.result.metrics.summary == other.result.metrics.summary
        for name, values in one.result.metrics.per_frame.items():
            assert np.array_equal(values, other.result.metrics.per_frame[name])
    ours, theirs = snapshots(runner), snapshots(threaded)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name][0] == theirs[name][0]
        torch.testing.assert_close(ours[name][1], theirs[name][1], rtol=0, atol=0)
    assert not held_locks(threaded)


def test_the_model_begins_the_next_clip_before_the_first_is_measured(threaded, ready, monkeypatch):
    generated, second_begins = [], threading.Event()
    generate, measure = runner_module.generate_continuation, ClipRunner._measured

    def generating(*arguments):
        generated.append(arguments)
        # Two of each clip's: without adaptation, and the yardstick with another seed.
        if len(generated) == 3:
            second_begins.set()
        return generate(*arguments)

    def measuring(self, *frames):
        assert second_begins.wait(TIMEOUT), "the second clip waits for the first one's measurements"
        return measure(self, *frames)

    monkeypatch.setattr(runner_module, "generate_continuation", generating)
    monkeypatch.setattr(ClipRunner, "_measured", measuring)
    arms = [None, *(row.name for row in YARDSTICKS)]
    with threaded.working():
        futures = [run_arms(threaded, clip, arms) for clip in ready.clips]
        assert [future.result(TIMEOUT)[0].clip for future in futures] == ready.clips


def test_all_that_was_begun_is_finished_when_the_work_ends(threaded, ready):
    with threaded.working():
        futures = [threaded.begin(clip, POINT) for clip in ready.clips]
    assert all(future.done() for future in futures)
    assert not held_locks(threaded)


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (runner_module, "write_video"),
        (runner_module, "read_clip_frames"),
        (runner_module, "write_results"),
        (Snapshot, "save"),
        (Snapshot, "save_optimizer"),
    ],
    ids=["video", "measuring", "results", "adapter", "optimiser"],
)
@pytest.mark.parametrize("with_thread", [False, True], ids=["inline", "threaded"])
def test_a_step_beside_the_model_that_fails_is_the_futures_error_and_can_be_done_again(
    runner, threaded, clip, monkeypatch, with_thread, owner, step
):
    def fail(*_):
        raise OSError("no space left")

    chosen = threaded if with_thread else runner
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fail)
        with chosen.working():
            error = chosen.begin(clip, POINT).exception(TIMEOUT)
    assert str(error) == "no space left"
    assert not held_locks(chosen)
    assert chosen.run(clip, POINT).clip == clip


@pytest.mark.parametrize("with_thread", [False, True], ids=["inline", "threaded"])
def test_model_work_that_fails_is_raised_at_once_and_leaves_no_lock(runner, threaded, clip, with_thread):
    chosen = threaded if with_thread else runner
    with chosen.working(), pytest.raises(FailedWork, match="loss is") as error:
        chosen.begin(clip, POINT | {"learning_rate": 1e30})
    assert error.traceback  # keeps the lock's object, which would let go of the lock at its own end
    assert not held_locks(chosen)


def test_a_clip_in_another_ones_hands_is_left_to_it(runner, ready, clip):
    other = ready.runner()
    with runner._whole(runner._works(clip, None)):
        assert other.try_begin(clip, None) is None
    assert not other.is_done(clip, None)
    with other.working():
        begun = other.try_begin(clip, None)
    assert begun.result().clip == clip
    assert other.is_done(clip, None)
    assert not held_locks(other)


@pytest.mark.parametrize("with_thread", [False, True], ids=["inline", "threaded"])
def test_an_adapter_that_was_just_trained_is_sampled_as_it_is_and_a_stored_one_gives_the_same_frames(
    runner, threaded, clip, monkeypatch, with_thread
):
    chosen = threaded if with_thread else runner
    loaded, load = [], lora.Method.load

    def loading(self, folder):
        loaded.append(folder)
        load(self, folder)

    monkeypatch.setattr(lora.Method, "load", loading)
    trained = content(chosen.run(clip, POINT))
    assert loaded == []
    for kind in ("continuation", "result"):
        shutil.rmtree(chosen.cache.root / kind)
    # Another adapter, and then none, take the model meanwhile.
    chosen.run(clip, POINT | {"learning_rate": 5e-2})
    chosen.run(clip, None)
    again = chosen.run(clip, POINT)
    assert loaded == [again.adapter]
    assert content(again) == trained


def changed_setting(params: Params, section: str, **values) -> Params:
    changed = params.model_dump()
    changed[section] |= values
    return Params.model_validate(changed)


def with_setting(runner: ClipRunner, section: str, **values) -> ClipRunner:
    return ClipRunner(changed_setting(runner.params, section, **values), runner.clips_folder, runner.encoded)


def with_samples(runner: ClipRunner, number: int) -> ClipRunner:
    return with_setting(runner, "generation", num_samples=number)


def test_a_clips_samples_cost_one_adaptation_and_their_mean_is_its_result(ready, clip, monkeypatch):
    adaptations, loaded, load = [], [], lora.Method.load

    def adapting(*arguments, **options):
        adaptations.append(arguments)
        return adapt(*arguments, **options)

    def loading(self, folder):
        loaded.append(folder)
        load(self, folder)

    monkeypatch.setattr(runner_module, "adapt", adapting)
    monkeypatch.setattr(lora.Method, "load", loading)
    runner = with_samples(ready.runner(), 2)
    two = runner.run(clip, POINT)
    values = two.result.by_sample("psnr")
    assert (len(adaptations), loaded, len(set(values))) == (1, [], 2)
    for name, value in two.result.metrics.summary.items():
        assert value == pytest.approx(np.mean(two.result.by_sample(name)))
    # The first sample is that of a run with one; the files are its, the losses those of the adaptation.
    one = with_samples(runner, 1).run(clip, POINT)
    assert one.result.samples == ()
    assert one.result.metrics.summary["psnr"] == values[0]
    assert content(two) == content(one)
    assert two.result.losses == one.result.losses
    # From the stored adapter, which is loaded once, both samples are the same again.
    for kind in ("continuation", "result"):
        shutil.rmtree(runner.cache.root / kind)
    assert with_samples(runner, 2).run(clip, POINT).result.by_sample("psnr") == values
    assert (len(adaptations), len(loaded)) == (1, 1)
    assert with_samples(runner, 2).run(clip, None).result.by_sample("psnr")[1] != values[1]


def test_the_choice_among_samples_sees_no_true_frame(prepare, moving_frames):
    """With other frames 34-65 the same sample is chosen, and its value is the clip's."""
    changed = moving_frames.copy()
    changed[33:] = 255 - changed[33:]
    videos, values = [], []
    for name, frames in (("as_it_is", moving_frames), ("changed", changed)):
        runner = with_setting(prepare(frames, name), "generation", num_samples=3, sample_choice="medoid")
        outcome = runner.run(only_clip(runner), POINT)
        samples = [sample["psnr"] for sample in outcome.result.candidates]
        assert outcome.result.metrics.summary["psnr"] in samples
        videos.append(outcome.video.read_bytes())
        values.append(samples.index(outcome.result.metrics.summary["psnr"]))
    assert videos[0] == videos[1]
    assert values[0] == values[1]


def test_samples_have_the_same_noise_in_both_arms_and_other_noise_than_the_yardstick(runner, clip):
    two = with_samples(runner, 2)
    adapted, before, other = ([*two._works(clip, arm)] for arm in (POINT, None, OTHER_SEED))
    seeds = [[work.generation_seed for work in works] for works in (adapted, before, other)]
    assert seeds[0] == seeds[1]
    assert len({*seeds[1], *seeds[2]}) == 4
    assert len(two._works(clip, LAST_FRAME)) == 1


@pytest.mark.parametrize(("arm", "has_seed"), [(None, True), (LAST_FRAME, False)])
def test_a_result_tells_of_its_window_noise_and_split_found_in_the_cache_or_not(ready, clip, arm, has_seed):
    for runner in (ready.runner(), ready.runner()):
        result = runner.run(clip, arm).result
        assert (result.split, result.frames_sha256) == (clip.split, clip.frames_sha256)
        assert result.seed == (runner._works(clip, arm)[0].generation_seed if has_seed else None)
    moved = replace(clip, split="test" if clip.split == "search" else "search")
    assert ready.runner().run(moved, arm).result.split == moved.split


def test_a_clip_that_is_done_is_not_waited_for(runner, ready, clip):
    done = runner.run(clip, None)
    other = ready.runner()
    with runner._whole(runner._works(clip, None)), other.working():
        assert other.begin(clip, None).result().video == done.video


@pytest.mark.parametrize("missing", ["adapter", "continuation", "result"])
def test_a_clip_without_one_of_its_entries_is_not_done(runner, clip, missing):
    runner.run(clip, POINT)
    assert runner.is_done(clip, POINT)
    for entry in (runner.cache.root / missing).iterdir():
        shutil.rmtree(entry)
    assert not runner.is_done(clip, POINT)


def test_a_clip_is_done_when_all_its_samples_are(runner, clip):
    with_samples(runner, 1).run(clip, None)
    two = with_samples(runner, 2)
    assert not two.is_done(clip, None)
    two.run(clip, None)
    assert two.is_done(clip, None)
    assert with_samples(runner, 1).is_done(clip, None)


def test_yardsticks_are_measured_like_every_continuation_and_found_again(runner, clip):
    with runner.working():
        still, vae, other = (runner.begin(clip, row.name).result() for row in YARDSTICKS)
        baseline = runner.begin(clip, None).result()
    frames = [np.load(outcome.frames_file) for outcome in (still, vae, other, baseline)]
    known = clip.conditioning_frames
    assert (frames[0][known:] == frames[0][known - 1]).all()
    assert still.result.metrics.summary["temporal_consistency"] == pytest.approx(MAX_PSNR)
    assert all(outcome.adapter is None and not outcome.result.losses for outcome in (still, vae, other))
    # The same known frames, other noise.
    assert (frames[2][known:] != frames[3][known:]).any()
    assert len({outcome.result.work for outcome in (still, vae, other, baseline)}) == 4
    assert all(runner.is_done(clip, row.name) for row in YARDSTICKS)


def test_where_fvd_is_measured_a_result_has_features_of_the_hidden_frames_of_both_videos(
    ready, clip, monkeypatch
):
    monkeypatch.setattr(
        runner_module,
        "VideoFeatures",
        lambda device: lambda frames: frames.mean(axis=(0, 1, 2), dtype=np.float32),
    )
    runner = with_setting(ready.runner(), "evaluation", fvd="required")
    clip = replace(clip, split="test")
    outcome = runner.run(clip, None)
    videos = np.load(outcome.frames_file), read_clip_frames(runner.clips_folder, clip)
    expected = [video[clip.conditioning_frames :].mean(axis=(0, 1, 2), dtype=np.float32) for video in videos]
    np.testing.assert_array_equal(outcome.result.features, expected)
    assert ready.runner().run(clip, None).result.features is None  # measured without FVD, another result
    other = with_setting(ready.runner(), "evaluation", fvd="required")
    assert other.run(replace(clip, split="search"), None).result.features is None


def test_with_stopping_the_smaller_numbers_of_steps_are_found_again(ready, clip, monkeypatch):
    rule = {"held_out": 2, "every": 1, "patience": 5, "draws": 1, "min_gain": 0.0, "refit": False}
    stopped = with_setting(ready.runner(), "adaptation", stopping=rule)
    longest = max(stopped._snapshot_steps)
    stopped.run(clip, POINT | {"num_steps": longest})
    assert not list((stopped.cache.root / "optimizer").glob("*"))
    monkeypatch.setattr(runner_module, "adapt_until_best", None)
    for steps in stopped._snapshot_steps:
        assert stopped.run(clip, POINT | {"num_steps": steps}).adapter


@pytest.mark.parametrize("with_thread", [False, True], ids=["inline", "threaded"])
def test_a_clip_that_is_left_as_it_was_is_not_generated_again(
    runner, threaded, clip, monkeypatch, with_thread
):
    """No gain of the held-out frames is enough, so the model stays, and its continuation is known."""
    rule = {"held_out": 2, "every": 1, "patience": 5, "draws": 1, "min_gain": 0.999, "refit": True}
    chosen = threaded if with_thread else runner
    stopped = chosen.at(changed_setting(chosen.params, "adaptation", stopping=rule))
    generated, generate = [], runner_module.generate_continuation
    monkeypatch.setattr(
        runner_module, "generate_continuation", lambda *given: generated.append(given) or generate(*given)
    )
    adapted = stopped.run(clip, POINT)
    assert adapted.result.losses == ()
    assert adapted.adapter.is_dir()
    assert stopped.is_done(clip, POINT)
    again = stopped.run(clip, POINT | {"num_steps": min(stopped._snapshot_steps)})
    unadapted = stopped.run(clip, None)
    assert len(generated) == 1
    for other in (again, unadapted):
        assert other.frames_file.read_bytes() == adapted.frames_file.read_bytes()
        assert other.result.metrics.summary == adapted.result.metrics.summary

    # Another process finds all of them.
    monkeypatch.setattr(stopped, "cache", ContentCache(stopped.cache.root, stopped.cache.max_bytes))
    stopped.run(clip, POINT)
    assert len(generated) == 1

    # And that is what the model with the adapter would generate.
    method = lora.Method(stopped.model.backbone, stopped.params.adaptation.method)
    method.load(adapted.adapter)
    conditioning = stopped._conditioning(clip)
    seed = stopped._works(clip, POINT)[0].generation_seed
    frames = generate(
        stopped.model.backbone, conditioning, clip.num_frames, stopped.params.generation, seed
    ).frames
    np.testing.assert_array_equal(frames, np.load(adapted.frames_file))


def test_a_lock_that_the_thread_beside_is_to_release_is_waited_for(threaded):
    lock, again = (threaded.cache.lock({"n": 1}, thread_local=False) for _ in range(2))
    threaded._wait_for(lock)
    threaded.beside.submit(lambda: time.sleep(0.3))
    threaded.beside.submit(lock.release)
    threaded._wait_for(again)
    again.release()
