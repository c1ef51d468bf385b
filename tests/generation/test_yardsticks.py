"""Continuations that need no sampling."""

import numpy as np
import pytest
import torch

from lora_tta.backbones import load_backbone
from lora_tta.generation.yardsticks import reconstruct, repeat_last_frame


def test_a_still_picture_shows_the_last_known_frame_and_nothing_of_the_future(moving_frames):
    frames = moving_frames[:65]
    still = repeat_last_frame(frames, 33)
    assert (still[:33] == frames[:33]).all()
    assert (still[33:] == frames[32]).all()
    other_future = np.concatenate([frames[:33], 255 - frames[33:]])
    assert (repeat_last_frame(other_future, 33) == still).all()


def test_a_reconstruction_is_what_the_models_vae_makes_of_the_frames(params, moving_frames):
    backbone = load_backbone(params.model, torch.device("cpu"), for_encoding=False)
    frames = moving_frames[:65, :32, :48]
    rendered = reconstruct(backbone, frames)
    vae = backbone.pipeline.vae
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].to(vae.dtype) / 127.5 - 1
    with torch.no_grad():
        decoded = vae.decode(vae.encode(video).latent_dist.mode()).sample[0].permute(1, 2, 3, 0)
    expected = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().numpy()
    assert rendered.shape == frames.shape
    assert rendered.dtype == np.uint8
    assert np.abs(rendered - expected).max() <= 1


@pytest.mark.parametrize("num_frames", [1, 33])
def test_the_known_frames_can_be_reconstructed_too(params, moving_frames, num_frames):
    backbone = load_backbone(params.model, torch.device("cpu"), for_encoding=False)
    assert reconstruct(backbone, moving_frames[:num_frames, :32, :48]).shape[0] == num_frames
