import numpy as np
import pytest
import torch
from added_metrics import BRIGHTNESS, UNDEFINED, add_to_table
from scipy.ndimage import gaussian_filter

from lora_tta.errors import FailedWork, UserError
from lora_tta.evaluation.frame_metrics import MAX_PSNR
from lora_tta.evaluation.metrics import ContinuationMetrics
from lora_tta.evaluation.perceptual import load_perceptual_distance
from lora_tta.records.metric_table import metric


@pytest.fixture(scope="module")
def measure() -> ContinuationMetrics:
    return ContinuationMetrics(load_perceptual_distance("untrained", "cpu"), "cpu")


@pytest.fixture(scope="module")
def target() -> np.ndarray:
    """A smooth moving pattern, (32, 48, 64, 3)."""
    frame, y, x, channel = np.mgrid[0:32, 0:48, 0:64, 0:3]
    return (127.5 + 100 * np.sin(x / 7 + frame / 9 + channel) * np.cos(y / 5)).astype(np.uint8)


@pytest.fixture(scope="module")
def generated(target: np.ndarray) -> np.ndarray:
    """The pattern under noise that grows from frame to frame."""
    noise = np.random.default_rng(0).normal(size=target.shape) * np.linspace(2, 40, 32)[:, None, None, None]
    return np.clip(target + noise, 0, 255).astype(np.uint8)


def mean_squared_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean(axis=(1, 2, 3))


def test_every_metric_of_the_table_has_a_value_a_clip_and_a_value_a_frame(measure, generated, target):
    metrics = measure(generated, target)
    assert {name: values.shape for name, values in metrics.per_frame.items()} == {
        "psnr": (32,),
        "ssim": (32,),
        "lpips_untrained": (32,),
        "temporal_consistency": (31,),
        "temporal_lpips_untrained": (31,),
    }
    assert list(metrics.summary) == measure.metric_names
    assert set(metrics.summary) - set(metrics.per_frame) == {"motion_error"}


def test_psnr_of_a_frame_is_that_of_its_own_error(measure, generated, target):
    expected = 10 * np.log10(255**2 / mean_squared_error(generated, target))
    np.testing.assert_allclose(measure(generated, target).per_frame["psnr"], expected, rtol=1e-5)


def test_psnr_of_a_clip_pools_the_squared_error_over_its_frames(measure, generated, target):
    metrics = measure(generated, target)
    expected = 10 * np.log10(255**2 / mean_squared_error(generated, target).mean())
    assert metrics.summary["psnr"] == pytest.approx(expected, rel=1e-5)
    assert metrics.summary["psnr"] < metrics.per_frame["psnr"].mean() - 1


def test_temporal_consistency_is_the_psnr_between_consecutive_generated_frames(measure, generated, target):
    expected = 10 * np.log10(255**2 / mean_squared_error(generated[:-1], generated[1:]))
    metrics = measure(generated, target)
    np.testing.assert_allclose(metrics.per_frame["temporal_consistency"], expected, rtol=1e-5)
    assert metrics.summary["temporal_consistency"] == pytest.approx(expected.mean(), rel=1e-5)
    other_target = measure(generated, target[::-1]).per_frame["temporal_consistency"]
    np.testing.assert_array_equal(other_target, metrics.per_frame["temporal_consistency"])


def test_ssim_of_flat_frames_is_its_luminance_term(measure):
    dark, bright = (np.full((2, 48, 64, 3), value, np.uint8) for value in (60, 90))
    c1 = (0.01 * 255) ** 2
    expected = (2 * 60 * 90 + c1) / (60**2 + 90**2 + c1)
    np.testing.assert_allclose(measure(dark, bright).per_frame["ssim"], expected, rtol=1e-3)


def test_ssim_of_frames_matches_the_formula_over_gaussian_windows(measure, generated, target):
    def blur(frame: np.ndarray) -> np.ndarray:
        return gaussian_filter(frame, sigma=(1.5, 1.5, 0), radius=(5, 5, 0), mode="mirror")

    a, b = (frames[20].astype(np.float64) for frames in (generated, target))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    variances = blur(a * a) - blur(a) ** 2 + blur(b * b) - blur(b) ** 2
    covariance = blur(a * b) - blur(a) * blur(b)
    luminance = (2 * blur(a) * blur(b) + c1) / (blur(a) ** 2 + blur(b) ** 2 + c1)
    expected = (luminance * (2 * covariance + c2) / (variances + c2)).mean()
    assert measure(generated, target).per_frame["ssim"][20] == pytest.approx(expected, abs=1e-4)


def test_more_noise_is_worse_by_every_measure_against_the_ground_truth(measure, generated, target):
    metrics = measure(generated, target)
    for name in ("psnr", "ssim", "lpips_untrained"):
        first, last = metrics.per_frame[name][[0, -1]]
        assert first > last if metric(name).direction == "maximize" else first < last


def test_identical_and_frozen_frames_give_finite_limits(measure, target):
    frozen = np.repeat(target[:1], 32, axis=0)
    metrics = measure(frozen, frozen)
    assert metrics.summary["psnr"] == pytest.approx(MAX_PSNR)
    assert metrics.summary["temporal_consistency"] == pytest.approx(MAX_PSNR)
    assert metrics.summary["ssim"] == pytest.approx(1)
    assert metrics.summary["lpips_untrained"] == 0
    assert pytest.approx(58.92, abs=0.01) == MAX_PSNR


def test_a_metric_that_is_added_to_the_table_is_measured_with_the_inputs_that_it_names(
    measure, generated, target, monkeypatch
):
    add_to_table(monkeypatch, BRIGHTNESS)
    extended = ContinuationMetrics(measure.distance, "cpu")
    assert extended.metric_names == [*measure.metric_names, "brightness"]
    metrics, without = extended(generated, target), measure(generated, target)
    assert metrics.summary == without.summary | {"brightness": pytest.approx(generated.mean(), rel=1e-5)}
    assert metrics.per_frame.keys() == without.per_frame.keys()


def test_a_metric_that_is_not_a_number_fails_the_clip(measure, generated, target, monkeypatch):
    add_to_table(monkeypatch, UNDEFINED)
    with pytest.raises(FailedWork, match=r"^undefined is nan$"):
        ContinuationMetrics(measure.distance, "cpu")(generated, target)


def test_measuring_twice_gives_the_same_bits(measure, generated, target):
    first, second = measure(generated, target), measure(generated, target)
    assert first.summary == second.summary
    for name, values in first.per_frame.items():
        np.testing.assert_array_equal(values, second.per_frame[name])


def test_a_frame_is_measured_the_same_whatever_frames_go_with_it(measure, generated, target):
    whole, part = measure(generated, target), measure(generated[5:15], target[5:15])
    for name in ("psnr", "ssim", "lpips_untrained"):
        np.testing.assert_allclose(part.per_frame[name], whole.per_frame[name][5:15], rtol=1e-5)


def test_measuring_leaves_the_convolution_settings_alone(measure, generated, target):
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    measure(generated, target)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((32, 48, 64, 3), np.float32),
        np.zeros((32, 3, 48, 64), np.uint8),
        np.zeros((31, 48, 64, 3), np.uint8),
    ],
    ids=["float", "channels first", "a frame short"],
)
def test_frames_of_another_kind_are_refused(measure, target, wrong):
    with pytest.raises(ValueError, match=r"must be|differ in shape"):
        measure(wrong, target)


def test_frames_too_small_for_lpips_name_the_setting(measure):
    with pytest.raises(UserError, match=r"64x16 pixels.*preprocess\.height"):
        measure(*[np.zeros((2, 16, 64, 3), np.uint8)] * 2)
    measure(*[np.zeros((2, 32, 32, 3), np.uint8)] * 2)
