from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange

from lora_tta.data.scaling import BT601, BT709, FrameScaler, crop_box


def yuv_frame(red: float, height: int = 48, width: int = 64, **tags: int) -> av.VideoFrame:
    """A flat frame whose tags tell how its bytes are meant; 50% grey luma at full or limited range."""
    frame = av.VideoFrame.from_ndarray(np.full((height * 3 // 2, width), red, np.uint8), format="yuv420p")
    for name, value in tags.items():
        setattr(frame, name, value)
    frame.pts, frame.time_base = 0, Fraction(1, 24)
    return frame


@pytest.mark.parametrize(
    ("size", "aspect", "box"),
    [
        ((320, 240), Fraction(336, 192), (320, 182, 0, 28)),
        ((320, 240), Fraction(1), (240, 240, 40, 0)),
        ((336, 192), Fraction(336, 192), (336, 192, 0, 0)),
        ((1280, 720), Fraction(9, 16), (404, 720, 438, 0)),
        ((127, 95), Fraction(4, 3), (126, 94, 0, 0)),
    ],
)
def test_crop_is_centred_even_and_as_large_as_it_can_be(size, aspect, box):
    assert crop_box(*size, aspect) == box


def test_scales_the_centre(tmp_path):
    """Left, middle and right thirds of a 3:1 frame: a square crop keeps the middle one."""
    array = np.repeat(np.array([[10, 20, 30], [120, 120, 120], [250, 240, 230]], np.uint8), 64, axis=0)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.tile(array, (64, 1, 1))))
    scaled = FrameScaler(frame, None, 32, 32)(frame)
    assert (scaled.width, scaled.height, scaled.format.name) == (32, 32, "yuv420p")
    assert np.abs(scaled.to_ndarray(format="rgb24").astype(int) - 120).max() <= 2


def test_full_range_becomes_limited_range():
    frame = yuv_frame(255, color_range=ColorRange.JPEG)
    frame.planes[1].update(b"\x80" * frame.planes[1].buffer_size)
    frame.planes[2].update(b"\x80" * frame.planes[2].buffer_size)
    scaled = FrameScaler(frame, None, 32, 32)(frame)
    assert scaled.color_range == ColorRange.MPEG
    assert np.frombuffer(scaled.planes[0], np.uint8).max() == 235


def test_limited_range_stays_as_it_is():
    frame = yuv_frame(235, color_range=ColorRange.MPEG)
    assert np.frombuffer(FrameScaler(frame, None, 32, 32)(frame).planes[0], np.uint8).max() == 235


@pytest.mark.parametrize(
    ("tag", "height", "matrix"),
    [(1, 48, BT709), (5, 48, BT601), (6, 720, BT601), (2, 48, BT601), (2, 720, BT709)],
)
def test_colour_matrix_is_the_source_s_or_the_convention(tag, height, matrix):
    frame = yuv_frame(100, height=height, colorspace=tag)
    scaler = FrameScaler(frame, None, 32, 32)
    assert scaler.colorspace == matrix
    assert (scaler(frame).to_ndarray() == 100).all(), "no needless conversion"


@pytest.mark.parametrize("matrix", [8, 11, 14])
def test_a_matrix_that_cannot_be_converted_is_said(matrix):
    frame = yuv_frame(100, colorspace=matrix)
    with pytest.raises(ValueError, match=f"not supported: {matrix}"):
        FrameScaler(frame, None, 32, 32)


def test_wide_pixels_are_cropped_by_the_shape_they_show():
    """64 x 64 pixels, each twice as wide as high, show 2:1: a square keeps the middle half of the columns."""
    array = np.zeros((64, 64, 3), np.uint8)
    array[:, 16:48] = 200
    frame = av.VideoFrame.from_ndarray(array)
    scaled = FrameScaler(frame, Fraction(2), 32, 32)(frame).to_ndarray(format="rgb24")
    assert scaled[:, 4:-4].min() > 190


def test_a_frame_of_another_size_is_scaled_to_the_first_one_s():
    """The middle half of the first frame's width is kept, whatever size the next ones have."""
    for height, width in ((96, 192), (48, 96), (200, 100)):
        array = np.zeros((height, width, 3), np.uint8)
        array[:, width // 4 : -width // 4] = 200
        frame = av.VideoFrame.from_ndarray(array)
        if height == 96:
            scaler = FrameScaler(frame, None, 32, 32)
        assert scaler(frame).to_ndarray(format="rgb24")[:, 4:-4].min() > 190
