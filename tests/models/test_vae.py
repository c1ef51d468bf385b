import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.video_processor import VideoProcessor
from PIL import Image

from lora_tta.models.vae import (
    decode_latents,
    disable_framewise_coding,
    encode_video,
    gather_blocks,
    preprocess_frames,
    select_reference_frames,
    spread_blocks,
)

PROCESSOR = VideoProcessor(vae_scale_factor=16)


def test_encoding_matches_the_published_code(vae, vae_io, relative_error):
    assert relative_error(encode_video(vae, vae_io["video"]), vae_io["latents_mode"]) < 1e-5


def test_decoding_matches_the_published_code(vae, vae_io, relative_error):
    assert relative_error(decode_latents(vae, vae_io["latents_mode"]), vae_io["decoded"]) < 1e-5


def test_latents_of_four_by_four_pixels_come_in_blocks_of_two_by_two():
    torch.manual_seed(0)
    blocks = ("HunyuanVideoDownBlock3D",) * 3, ("HunyuanVideoUpBlock3D",) * 3
    fine = AutoencoderKLHunyuanVideo(
        latent_channels=3,
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        block_out_channels=(4, 4, 4),
        layers_per_block=0,
        norm_num_groups=2,
        spatial_compression_ratio=4,
    )
    disable_framewise_coding(fine)
    video = torch.rand(1, 3, 5, 16, 32) * 2 - 1
    latents = encode_video(fine, video)
    assert latents.shape == (1, 12, 2, 2, 4)
    with torch.no_grad():
        own = fine.encode(video).latent_dist.mode()
        decoded = fine.decode(own).sample
    corner = own[0, :, 1, 2:4, 6:8].flatten() * fine.config.scaling_factor
    torch.testing.assert_close(latents[0, :, 1, 1, 3], corner)
    torch.testing.assert_close(decode_latents(fine, latents), decoded)


@pytest.mark.parametrize("size", [1, 2])
def test_spreading_undoes_gathering(size):
    latents = torch.rand(2, 3, 5, 4, 6)
    gathered = gather_blocks(latents, size)
    assert gathered.shape == (2, 3 * size**2, 5, 4 // size, 6 // size)
    assert torch.equal(spread_blocks(gathered, size), latents)


def test_only_large_frames_go_through_the_vae_in_tiles(vae, monkeypatch):
    tiling = []
    decode = vae.decode

    def decode_corner(latents):
        tiling.append(vae.use_tiling)
        return decode(latents[..., :2, :2])

    monkeypatch.setattr(vae, "decode", decode_corner)
    decode_latents(vae, torch.zeros(1, 16, 1, 24, 42))
    decode_latents(vae, torch.zeros(1, 16, 1, 72, 128))
    assert tiling == [False, True]
    assert not vae.use_tiling


@pytest.mark.parametrize(
    ("mode", "runs"),
    [
        ("i2v_head", [range(1)]),
        ("i2v_tail", [range(69, 70)]),
        ("i2v_loop", [range(1), range(69, 70)]),
        ("v2v_head", [range(33)]),
        ("v2v_tail", [range(37, 70)]),
        ("v2v_head_easy", [range(65)]),
        ("v2v_tail_easy", [range(5, 70)]),
    ],
)
def test_each_mode_takes_its_frames(mode, runs):
    video = torch.arange(70).reshape(1, 1, 70, 1, 1)
    selected = [run.flatten().tolist() for run in select_reference_frames(video, mode)]
    assert selected == [list(run) for run in runs]


def test_too_few_frames_are_refused():
    with pytest.raises(ValueError, match="v2v_head needs 33 reference frames, got 32"):
        select_reference_frames(torch.zeros(1, 3, 32, 16, 16), "v2v_head")


def test_all_kinds_of_frames_mean_the_same():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    expected = channels_first.permute(1, 0, 2, 3)[None] / 127.5 - 1
    for frames in (
        pixels,
        pixels[None],
        pixels / np.float32(255),
        channels_first,
        channels_first[None] / 255,
        [Image.fromarray(frame) for frame in pixels],
    ):
        video = preprocess_frames(PROCESSOR, frames)
        torch.testing.assert_close(video, expected, check_dtype=False, rtol=0, atol=1e-6)


def test_frames_are_resized():
    assert preprocess_frames(PROCESSOR, torch.rand(1, 5, 3, 40, 50), 32, 48).shape == (1, 3, 5, 32, 48)


def test_channels_in_the_wrong_place_are_refused():
    with pytest.raises(ValueError, match=r"got shape \(1, 3, 5, 32, 48\)"):
        preprocess_frames(PROCESSOR, torch.rand(1, 3, 5, 32, 48))
