"""One video at once: its end is continued, and compared where the video shows what follows."""

import numpy as np
import pytest
from prepared_clips import prepare_clips, write_raw_clip

from lora_tta.config import Params
from lora_tta.data.video import read_conditioning_frames
from lora_tta.errors import UserError
from lora_tta.experiment import own_video
from lora_tta.experiment.own_video import continue_video, prompt_of


@pytest.fixture
def video(tmp_path, moving_frames):
    path = tmp_path / "a dog runs.avi"
    write_raw_clip(path, moving_frames)
    return path


def one_step(params: Params, **values) -> Params:
    changed = params.model_dump()
    changed["adaptation"] |= {"num_steps": 1, "warmup_steps": 0} | values
    return Params.model_validate(changed)


def test_the_end_is_continued_and_the_last_frames_are_predicted_from_those_before(video, params):
    result = continue_video(video, params=one_step(params), rank=2, num_steps=3, learning_rate=0.01)
    end, compared = result.continuation, result.comparison
    assert end.frames.shape == (65, 32, 48, 3)
    assert (end.truth, end.unadapted, end.metrics) == (None, None, {})
    assert compared is not None
    assert compared.truth is not None
    assert (end.start, compared.start) == (pytest.approx(37 / 24), pytest.approx(5 / 24))
    # Of 70 frames, 38 to 70 are the last known one of the comparison and its truth.
    assert np.abs(end.known.astype(int) - np.r_[compared.known[-1:], compared.truth]).mean() < 2
    assert len(end.losses) == len(compared.losses) == 3
    assert end.adapt_seconds > 0 < end.generate_seconds
    before, after = compared.metrics["psnr"]
    assert before != after
    assert (result.fps, result.prompt, result.prompt_from) == (24, "a dog runs", "from its name")


def test_other_numbers_of_known_and_generated_frames(video, params):
    values = one_step(params).model_dump()
    values["preprocess"] |= {"conditioning_frames": 9, "generated_frames": 8, "height": 48}
    result = continue_video(video, params=Params.model_validate(values))
    assert result.continuation.frames.shape == (17, 48, 48, 3)
    assert result.comparison is not None
    assert result.comparison.truth is not None
    assert result.comparison.truth.shape == (8, 48, 48, 3)
    assert result.continuation.start == pytest.approx((70 - 9) / 24)


def test_from_a_start_on_it_does_what_the_pipeline_does_with_the_first_frames(
    video, params, tmp_path, moving_frames
):
    params = one_step(params)
    result = continue_video(video, "waves", params=params, start=0)
    assert result.comparison is result.continuation
    _, [clip] = prepare_clips(params, tmp_path / "prepared", [moving_frames])
    known = read_conditioning_frames(tmp_path / "prepared" / "clips", clip)
    assert np.array_equal(result.continuation.known, known)


def test_results_are_the_same_again(video, params):
    first, second = (continue_video(video, params=one_step(params), compare=False) for _ in range(2))
    assert first.comparison is None
    assert np.array_equal(first.continuation.generated, second.continuation.generated)


def test_a_video_of_no_more_than_the_known_frames_is_continued_without_a_comparison(
    tmp_path, params, moving_frames
):
    write_raw_clip(tmp_path / "a.avi", moving_frames[:33])
    result = continue_video(tmp_path / "a.avi", params=one_step(params))
    assert result.comparison is None
    assert result.continuation.start == 0


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"rank": 0}, "rank: Input should be greater than or equal to 1"),
        ({"num_steps": -1}, "num_steps: "),
        ({"learning_rate": float("nan")}, "learning_rate: "),
        ({"start": 1.6}, r"has 32 frames at 24 fps from 1.6 s on, and 33 .* earlier --start"),
        ({"start": 100.0}, "cannot be continued: it has 70 frames"),
    ],
)
def test_what_cannot_be_done_is_one_line(video, params, given, reason):
    with pytest.raises(UserError, match=reason) as caught:
        continue_video(video, params=one_step(params), **given)
    assert "\n" not in str(caught.value)


def test_a_method_without_a_rank_says_so(video, params):
    values = params.model_dump()
    values["adaptation"]["method"] = {"name": "norms"}
    values["search"]["space"] = {"learning_rate": [1e-3]}
    params = Params.model_validate(values)
    with pytest.raises(UserError, match="method norms: rank is no setting"):
        continue_video(video, params=params, rank=4)


def test_too_short_videos_still_pictures_and_texts_are_one_line(tmp_path, params, moving_frames):
    write_raw_clip(tmp_path / "short.avi", moving_frames[:32])
    write_raw_clip(tmp_path / "still.avi", moving_frames[[0] * 70])
    (tmp_path / "text.mp4").write_text("no video")
    for name, reason in {
        "short.avi": "has 32 frames",
        "still.avi": "none moves",
        "text.mp4": "cannot be",
    }.items():
        with pytest.raises(UserError, match=reason):
            continue_video(tmp_path / name, params=params)


def test_a_video_that_stands_still_at_its_end_is_a_video(tmp_path, params, moving_frames):
    write_raw_clip(tmp_path / "a.avi", moving_frames[[*range(5), *[5] * 70]])
    assert continue_video(tmp_path / "a.avi", params=one_step(params), compare=False).continuation.losses


def test_a_missing_model_says_what_brings_it(video, params, tmp_path):
    values = params.model_dump()
    values["model"]["path"] = tmp_path / "none"
    with pytest.raises(UserError, match="dvc pull"):
        continue_video(video, params=Params.model_validate(values))


def test_memory_that_runs_out_is_one_line(video, params, monkeypatch):
    def fail(*_):
        raise own_video.torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(own_video, "generate_continuation", fail)
    with pytest.raises(UserError, match="memory ran out") as caught:
        continue_video(video, params=one_step(params))
    assert "\n" not in str(caught.value)


class TestPrompt:
    """Given, or the caption that preprocessing would give."""

    @pytest.fixture
    def suffixed(self, params, tmp_path):
        values = params.model_dump()
        values["data"] |= {"root": tmp_path / "data", "caption_suffix": "4 motion score."}
        return Params.model_validate(values)

    def test_given(self, suffixed, tmp_path):
        assert prompt_of(tmp_path / "a.mp4", " a\ndog ", suffixed) == ("a dog 4 motion score.", "as given")
        assert prompt_of(tmp_path / "a.mp4", "", suffixed) == ("4 motion score.", "as given")

    def test_of_a_text_beside_it_a_table_its_class_or_its_name(self, suffixed, tmp_path):
        (tmp_path / "data" / "Dogs").mkdir(parents=True)
        path = tmp_path / "data" / "Dogs" / "a_1.mp4"
        assert prompt_of(path, None, suffixed) == ("dogs 4 motion score.", "from its class")
        assert prompt_of(tmp_path / "a_1.mp4", None, suffixed) == ("a 1 4 motion score.", "from its name")
        (tmp_path / "data" / "captions.csv").write_text("path,caption\nDogs/a_1.mp4,a dog\n")
        words, origin = prompt_of(path, None, suffixed)
        assert words == "a dog 4 motion score."
        assert origin.startswith("from the captions in ")
        path.with_suffix(".txt").write_text("two dogs")
        assert prompt_of(path, None, suffixed) == ("two dogs 4 motion score.", "from a_1.txt")
