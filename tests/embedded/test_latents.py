import pytest
import torch

from lora_tta.embedded.latents import LatentSpace, fit_latent_space
from lora_tta.embedded.recipe import Video
from lora_tta.embedded.synthetic import TRAINING_CLASSES, render_clip


def videos(num_frames: int, height: int = 16, width: int = 32) -> torch.Tensor:
    clips = [render_clip(name, 5, num_frames, height, width) for name in TRAINING_CLASSES]
    return torch.stack(clips).transpose(1, 2) * 2 - 1


def test_frames_encoded_alone_are_the_first_latents_of_the_clip(latent_space):
    clip = videos(9)
    whole, head, first = (latent_space.encode(clip[:, :, :n]) for n in (9, 5, 1))
    assert whole.shape == (len(clip), len(latent_space.bias), 3, 4, 8)
    torch.testing.assert_close(whole[:, :, :2], head)
    torch.testing.assert_close(whole[:, :, :1], first)


def test_the_components_hold_nearly_all_of_a_block():
    """At the embedded model's size they lose under 5% of the variance."""
    video = Video()
    space = fit_latent_space(video, 12, clips=70)
    clips = videos(5, video.height, video.width)[:, :, 1:]
    blocks = clips.unfold(3, 4, 4).unfold(4, 4, 4).permute(0, 3, 4, 1, 2, 5, 6).flatten(0, 2).flatten(1)
    matrix = space.weight.flatten(1)
    unproject = torch.linalg.pinv(matrix).T
    mean = -space.bias @ unproject
    rest = (blocks - mean) - (blocks - mean) @ matrix.T @ unproject
    rest = rest - rest.mean(dim=0)
    assert rest.square().mean() < 0.05 * blocks.var(dim=0).mean()


def test_the_latents_have_unit_variance(latent_space):
    assert 0.7 < latent_space.encode(videos(9)).std() < 1.4


def test_the_spreads_are_those_of_the_latents(latent_space):
    """Beside their mean, and each four times, as the latents are gathered in blocks of 2 x 2."""
    spreads, of_latents = latent_space.spreads(), latent_space.encode(videos(9)).std(dim=(0, 2, 3, 4))
    assert torch.equal(spreads, spreads[::4].repeat_interleave(4))
    assert spreads.mean() == pytest.approx(1.0)
    torch.testing.assert_close(spreads[::4], of_latents / of_latents.mean(), rtol=0.5, atol=0.0)


def test_a_saved_space_reads_back(latent_space, tmp_path):
    latent_space.save(tmp_path / "latents.safetensors")
    read = LatentSpace.load(tmp_path / "latents.safetensors")
    assert torch.equal(read.weight, latent_space.weight)
    assert torch.equal(read.bias, latent_space.bias)
