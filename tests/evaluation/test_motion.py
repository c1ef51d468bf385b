"""What moves is counted: a frozen and a blurred video do worse than one that is right but for some noise."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lora_tta.evaluation.motion import MIN_MOTION, motion, motion_error, temporal_distance
from lora_tta.evaluation.perceptual import load_perceptual_distance

TEXTURE = gaussian_filter(np.random.default_rng(0).normal(size=(64, 256)), 2)


def sliding(pixels_a_frame: float, num_frames: int = 16) -> torch.Tensor:
    """A random texture that slides to the left: (n, 3, 64, 96) in 0..255."""
    columns = np.arange(96) + np.arange(num_frames)[:, None] * pixels_a_frame
    rows = [[np.interp(at, np.arange(256), row) for row in TEXTURE] for at in columns]
    frames = 127 + 400 * np.array(rows)[:, None].repeat(3, axis=1)
    return torch.from_numpy(frames.clip(0, 255)).float()


def blurred(frames: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(gaussian_filter(frames.numpy(), (0, 0, 4, 4)))


def noisy(frames: torch.Tensor) -> torch.Tensor:
    noise = np.random.default_rng(1).normal(scale=3, size=frames.shape)
    return (frames + torch.from_numpy(noise)).clamp(0, 255).float()


def frozen(frames: torch.Tensor) -> torch.Tensor:
    return frames[:1].expand_as(frames)


@pytest.fixture(scope="module")
def distance():
    return load_perceptual_distance("untrained", "cpu")


@pytest.mark.parametrize("pixels", [0.5, 1.0, 2.0])
def test_motion_is_in_pixels_a_frame(pixels):
    assert motion(sliding(pixels)) == pytest.approx(pixels, rel=0.1)


def test_a_still_picture_has_no_motion_and_the_error_of_its_truths():
    truth = sliding(1.5)
    assert motion(frozen(truth)) == 0
    expected = math.log((motion(truth) + MIN_MOTION) / MIN_MOTION)
    assert motion_error(frozen(truth), truth).value == pytest.approx(expected)
    assert motion_error(frozen(truth), frozen(truth)).value == 0


def test_half_and_twice_the_motion_are_as_wrong():
    slow, truth, fast = (sliding(pixels) for pixels in (0.75, 1.5, 3.0))
    for other in (slow, fast):
        assert motion_error(other, truth).value == pytest.approx(math.log(2), rel=0.15)


def test_the_temporal_distance_is_the_difference_of_changes(distance):
    with torch.inference_mode():
        ours, true = sliding(1.0), sliding(2.0)
        measured = temporal_distance(ours, true, distance)
        expected = (distance(ours[:-1], ours[1:]) - distance(true[:-1], true[1:])).abs()
    np.testing.assert_allclose(measured.per_frame, expected.numpy(), rtol=1e-4)
    assert measured.value == pytest.approx(expected.mean().item(), rel=1e-4)


@torch.inference_mode()
def test_a_frozen_and_a_blurred_video_do_not_win(distance):
    truth = sliding(1.5)
    right = noisy(truth)
    for other in (frozen(truth), blurred(truth)):
        assert (
            temporal_distance(other, truth, distance).value > temporal_distance(right, truth, distance).value
        )
    assert motion_error(frozen(truth), truth).value > motion_error(right, truth).value + 1
