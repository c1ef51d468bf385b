"""The conditioning of a clip is made once for the same frames 1-33, caption and model."""

from dataclasses import replace

import numpy as np
import pytest

from lora_tta.cache.store import ContentCache
from lora_tta.data.video import write_video
from lora_tta.experiment.encoding import encode_clip
from lora_tta.experiment.lazy_model import LazyModel
from lora_tta.files import file_sha256
from lora_tta.records.clips import Clip

CLIP = Clip(
    "v_Sliding_g01_c01", "Sliding", "sliding", "a.avi", 65, 24.0, 0, 65, 33, 24, 32, 48, "", "", "", "test"
)


@pytest.fixture
def encode(params, tmp_path):
    """Frames and a caption to the conditioning, by a fresh model, and whether that was loaded."""

    def encode(frames: np.ndarray, caption: str = CLIP.caption) -> tuple[bytes, bool]:
        write_video(tmp_path / CLIP.file_name, frames, CLIP.fps)
        cache = ContentCache(tmp_path / "cache", params.cache.max_bytes)
        model = LazyModel(params.model, tmp_path / "cache", for_encoding=True)
        clip = replace(CLIP, caption=caption, sha256=file_sha256(tmp_path / CLIP.file_name))
        encode_clip(model, cache, tmp_path, clip, tmp_path / "encoded")
        return (tmp_path / "encoded").read_bytes(), "backbone" in vars(model)

    return encode


@pytest.fixture
def frames(moving_frames) -> np.ndarray:
    return moving_frames[:65, :32, :48].copy()


def test_a_second_time_no_model_is_loaded_and_the_bytes_are_the_same(encode, frames):
    first, loaded = encode(frames)
    assert loaded
    assert encode(frames) == (first, False)


def test_frames_34_to_65_do_not_matter(encode, frames):
    first, _ = encode(frames)
    frames[33:] = 255 - frames[33:]
    assert encode(frames) == (first, False)


@pytest.mark.parametrize("number", [1, 33])
def test_a_change_in_frames_1_to_33_is_encoded(encode, frames, number):
    first, _ = encode(frames)
    frames[number - 1] = 255 - frames[number - 1]
    second, loaded = encode(frames)
    assert loaded
    assert second != first


def test_another_caption_is_encoded(encode, frames):
    first, _ = encode(frames)
    second, loaded = encode(frames, caption="standing still")
    assert loaded
    assert second != first


def test_a_model_that_has_changed_encodes_again(encode, frames, monkeypatch):
    encode(frames)
    monkeypatch.setattr(LazyModel, "environment", {"code": "another version"})
    assert encode(frames)[1]
