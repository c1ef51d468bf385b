import numpy as np
import pytest
import torch

from lora_tta.backbones import load_backbone
from lora_tta.backbones.base import Conditioning
from lora_tta.errors import FailedWork
from lora_tta.models.speed.acceleration import GraphedForward


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


def test_encoding_loads_no_transformer_and_continuing_no_text_encoder(params, moving_frames):
    encoder, generator = (
        load_backbone(params.model, torch.device("cpu"), for_encoding=for_encoding)
        for for_encoding in (True, False)
    )
    assert encoder.pipeline.transformer is None
    assert generator.pipeline.text_encoder is generator.pipeline.text_encoder_2 is None
    conditioning = encoder.encode(moving_frames[:33, :32, :48], "bouncing ball")
    assert generator.sample(conditioning, params.generation, seed=0).shape == (65, 32, 48, 3)


def test_first_uses_are_those_of_the_graphs_and_none_on_the_cpu(backbone):
    assert backbone.first_use_seconds == 0
    graphs = backbone.network.forward = GraphedForward(backbone.network)
    graphs.first_uses.seconds = 2.5
    assert backbone.first_use_seconds == 2.5
