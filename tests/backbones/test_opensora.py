import numpy as np
import pytest
import torch

from lora_tta.backbones.base import Conditioning
from lora_tta.errors import FailedWork


def test_a_clip_is_encoded_to_nine_latent_frames_and_its_captions_embeddings(backbone, moving_frames):
    conditioning = backbone.encode(moving_frames[:33, :32, :48], "bouncing ball")
    assert conditioning["reference_latents"].shape == (1, 16, 9, 4, 6)
    assert conditioning["prompt_embeds"].shape == (1, 16, 16)
    assert not torch.equal(conditioning["prompt_embeds"], conditioning["negative_prompt_embeds"])


@pytest.mark.parametrize("num_frames", [32, 34, 65])
def test_nothing_but_the_33_conditioning_frames_is_taken(backbone, moving_frames, num_frames):
    with pytest.raises(ValueError, match="33"):
        backbone.encode(moving_frames[:num_frames, :32, :48], "x")


def test_saved_and_loaded_conditionings_are_the_same(conditioning, tmp_path):
    conditioning.save(tmp_path / "clip.safetensors")
    loaded = Conditioning.load(tmp_path / "clip.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in conditioning.tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["clip.safetensors"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_frames_of_a_broken_network_are_a_failure_and_never_a_video(backbone, conditioning, params, value):
    with torch.no_grad():
        backbone.network.proj_out.weight[0, 0] = value
    with pytest.raises(FailedWork, match="not finite"):
        backbone.sample(conditioning, params.generation, seed=0)


def test_sampled_frames_are_in_the_unit_range(backbone, conditioning, params):
    frames = backbone.sample(conditioning, params.generation, seed=0)
    assert frames.shape == (65, 32, 48, 3)
    assert np.all((frames >= 0) & (frames <= 1))
