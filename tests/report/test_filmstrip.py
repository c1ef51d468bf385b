import numpy as np
import pytest

from lora_tta.report.filmstrip import frame_strip


def flat_video(value: int) -> np.ndarray:
    """Frame n (from 1) has the grey value ``value + n``."""
    return np.broadcast_to(
        (value + np.arange(1, 66, dtype=np.uint8))[:, None, None, None], (65, 64, 112, 3)
    ).copy()


def greys(strip: np.ndarray) -> list[list[int]]:
    """Grey value in the middle of each cell of a strip with two columns of 224 x 128 pixels."""
    rows = (strip.shape[0] - 24) // 132
    return [
        [int(strip[24 + row * 132 + 64, 104 + column * 228 + 112, 0]) for column in range(2)]
        for row in range(rows)
    ]


def test_rows_are_the_videos_and_columns_the_numbered_frames():
    strip = frame_strip(flat_video(0), flat_video(70), flat_video(140), 33, frames=(33, 65))
    assert (strip.dtype, strip.shape) == (np.uint8, (24 + 3 * 132, 104 + 2 * 228, 3))
    assert greys(strip) == [[33, 65], [103, 135], [173, 205]]


def test_without_a_baseline_there_are_two_rows():
    assert greys(frame_strip(flat_video(0), None, flat_video(140), 33, frames=(1, 34))) == [
        [1, 34],
        [141, 174],
    ]


def test_frames_the_model_saw_are_labelled_grey():
    strip = frame_strip(flat_video(0), None, flat_video(0), 33, frames=(33, 34))
    seen, generated = (strip[:24, left : left + 224].min() for left in (104, 332))
    assert generated < seen < 200


def test_large_frames_are_not_enlarged():
    video = np.zeros((65, 192, 336, 3), np.uint8)
    assert frame_strip(video, None, video, 33, frames=(65,)).shape == (24 + 2 * 196, 104 + 340, 3)


@pytest.mark.parametrize("frames", [(0, 33), (33, 66)])
def test_frames_outside_the_clip_are_refused(frames):
    with pytest.raises(ValueError, match="not all in a clip of 65 frames"):
        frame_strip(flat_video(0), None, flat_video(0), 33, frames=frames)


def test_videos_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        frame_strip(flat_video(0), None, flat_video(0)[33:], 33)
