"""FVD by the rule of LPIPS: the named network or nothing, with a small module of the published interface."""

import hashlib

import numpy as np
import pytest
import torch
from clip_results import make_result
from torch import Tensor, nn

from lora_tta.errors import UserError
from lora_tta.evaluation.comparison import frechet_video_distances
from lora_tta.evaluation.published_file import PublishedFile
from lora_tta.evaluation.video_features import I3D, VideoFeatures, decide_fvd, frechet_distance
from lora_tta.records.features import MIN_CLIPS

UNREACHABLE = "http://127.0.0.1:9"


class Small(nn.Module):
    """Means of the colours and the mean change from frame to frame."""

    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert rescale
        assert resize
        assert return_features
        x = 2 * x / 255 - 1
        change = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=(1, 2, 3, 4))
        return torch.cat([x.mean(dim=(2, 3, 4)), change[:, None]], dim=1)


@pytest.fixture
def missing(tmp_path, monkeypatch) -> PublishedFile:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return PublishedFile(f"{UNREACHABLE}/small.pt?dl=1", "00")


@pytest.fixture
def weights(missing) -> PublishedFile:
    missing.path.parent.mkdir()
    torch.jit.script(Small()).save(missing.path)
    return PublishedFile(missing.url, hashlib.sha256(missing.path.read_bytes()).hexdigest())


def test_the_network_is_the_published_i3d_by_its_hash():
    assert I3D.path.name == "i3d_torchscript.pt"
    assert len(I3D.sha256) == 64


def test_features_are_what_the_network_says_of_the_frames(weights):
    frames = np.zeros((32, 8, 12, 3), np.uint8)
    frames[..., 0] = 255
    np.testing.assert_allclose(VideoFeatures("cpu", weights)(frames), [1, -1, -1, 0])


def test_another_file_is_never_run(weights):
    weights.path.write_bytes(weights.path.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"small\.pt is damaged or another file"):
        VideoFeatures("cpu", weights)


def test_off_looks_for_nothing(missing):
    assert decide_fvd("off", MIN_CLIPS, missing) == "off"


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_with_weights_and_enough_clips_it_is_measured(weights, mode):
    assert decide_fvd(mode, MIN_CLIPS, weights) == "required"


@pytest.mark.parametrize(
    ("clips", "reason"),
    [(MIN_CLIPS, r"small\.pt is not in"), (255, "it takes 256 test clips and there are 255")],
)
def test_without_them_auto_says_why_not_and_required_is_an_error(missing, caplog, clips, reason):
    with pytest.raises(UserError, match=f"evaluation.fvd is 'required', but {reason}"):
        decide_fvd("required", clips, missing)
    assert decide_fvd("auto", clips, missing) == "off"
    assert "FVD is not measured" in caplog.text


def test_the_distance_of_gaussians_is_the_one_of_their_moments():
    stream = np.random.default_rng(0)
    drawn = stream.standard_normal((4000, 3))
    # Whitened: mean 0 and covariance 1 exactly.
    drawn = (drawn - drawn.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn, rowvar=False))).T
    assert frechet_distance(drawn, drawn) == pytest.approx(0, abs=1e-6)
    # |shift|^2 + tr(S + 1 - 2 sqrt(S)) with S = 4.
    assert frechet_distance(2 * drawn + [3, 0, 0], drawn) == pytest.approx(9 + 3 * (4 + 1 - 2 * 2))


def results_with_features(count, shift):
    stream = np.random.default_rng(1)
    return [
        make_result(f"clip_{number}", 15.0, features=np.stack([true + shift, true]).astype(np.float32))
        for number, true in enumerate(stream.standard_normal((count, 4)))
    ]


def test_fvd_is_one_number_of_each_arm_and_none_of_fewer_clips():
    near, far = (results_with_features(MIN_CLIPS, shift) for shift in (1, 2))
    assert frechet_video_distances({"near": near, "far": far}) == pytest.approx({"near": 4, "far": 16})
    assert frechet_video_distances({"near": near, "far": far[1:]}) == {}
    assert frechet_video_distances({"near": near, "far": [*far, make_result("another", 15.0)]}) == {}
