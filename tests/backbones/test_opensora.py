from dataclasses import replace

import numpy as np
import pytest
import torch

from lora_tta.backbones import load_backbone
from lora_tta.backbones.base import Conditioning
from lora_tta.errors import FailedWork
from lora_tta.models import pipeline as pipeline_module
from lora_tta.models.packing import CONDITION_MODES
from lora_tta.models.speed.acceleration import GraphedForward


def test_a_clip_is_encoded_to_nine_latent_frames_and_its_captions_embeddings(backbone, moving_frames):
    conditioning = backbone.encode(moving_frames[:33, :32, :48], "bouncing ball")
    assert conditioning["reference_latents"].shape == (1, 16, 9, 4, 6)
    assert conditioning["prompt_embeds"].shape == (1, 16, 16)
    assert not torch.equal(conditioning["prompt_embeds"], conditioning["negative_prompt_embeds"])


@pytest.mark.parametrize("num_frames", [0, 32, 34])
def test_other_numbers_of_frames_than_the_vae_takes_are_refused(backbone, moving_frames, num_frames):
    with pytest.raises(ValueError, match="4 k \\+ 1"):
        backbone.encode(moving_frames[:num_frames, :32, :48], "x")


@pytest.mark.parametrize("known", [1, 9, 17, 33, 49])
def test_any_number_of_known_frames_is_continued_in_the_published_mode(
    backbone, moving_frames, params, monkeypatch, known
):
    """Image to video with one; as from 33 with more."""
    modes = []
    build = pipeline_module.build_condition
    monkeypatch.setattr(
        pipeline_module, "build_condition", lambda mode, *rest: modes.append(mode) or build(mode, *rest)
    )
    conditioning = backbone.encode(moving_frames[:known, :32, :48], "bouncing ball")
    frames = backbone.sample(conditioning, known + 8, params.generation, seed=0)
    assert frames.shape == (known + 8, 32, 48, 3)
    published = CONDITION_MODES["i2v_head" if known == 1 else "v2v_head"]
    assert modes == [replace(published, num_latent_frames=(known - 1) // 4 + 1)]


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
        backbone.sample(conditioning, 65, params.generation, seed=0)


def test_sampled_frames_are_in_the_unit_range(backbone, conditioning, params):
    frames = backbone.sample(conditioning, 65, params.generation, seed=0)
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
    assert generator.sample(conditioning, 65, params.generation, seed=0).shape == (65, 32, 48, 3)


def test_first_uses_are_those_of_the_graphs_and_none_on_the_cpu(backbone):
    assert backbone.first_use_seconds == 0
    graphs = backbone.network.forward = GraphedForward(backbone.network)
    graphs.first_uses.seconds = 2.5
    assert backbone.first_use_seconds == 2.5
