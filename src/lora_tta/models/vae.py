"""From pixel frames to reference latents, and between the VAE and its scaled latents."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from lora_tta.models.packing import SPATIAL_COMPRESSION, ConditionMode, get_condition_mode

# The VAE attends over all latent positions of a video at once; larger frames go through it in spatial tiles.
MAX_UNTILED_PIXELS = 256 * 512

Video = Tensor | np.ndarray | list[Image.Image]


def select_reference_frames(video: Tensor, mode: str | ConditionMode) -> list[Tensor]:
    """Cut the runs of frames that a mode knows, each to be encoded alone, out of a video (B, C, F, H, W).

    Raises:
        ValueError: if the mode takes no reference or the video has too few frames.
    """
    condition_mode = get_condition_mode(mode)
    if condition_mode is None:
        raise ValueError(f"mode {mode} takes no reference frames")
    count = condition_mode.num_frames
    if video.shape[2] < count:
        raise ValueError(f"mode {mode} needs {count} reference frames, got {video.shape[2]}")
    runs = []
    if condition_mode.place in ("head", "both"):
        runs.append(video[:, :, :count])
    if condition_mode.place in ("tail", "both"):
        runs.append(video[:, :, -count:])
    return runs


def preprocess_frames(
    processor: VideoProcessor, frames: Video, height: int | None = None, width: int | None = None
) -> Tensor:
    """Bring frames into (B, 3, F, H, W) in [-1, 1], resized to height x width if given.

    Args:
        processor: does the work.
        frames: a tensor (B, F, 3, H, W) or (F, 3, H, W), an array (B, F, H, W, 3) or (F, H, W, 3), each of
            floats in [0, 1] or of bytes, or a list of PIL images.
        height: pixels.
        width: pixels.

    Raises:
        ValueError: for another layout.
    """
    if isinstance(frames, Tensor | np.ndarray):
        channels = frames.shape[-3] if isinstance(frames, Tensor) else frames.shape[-1]
        if frames.ndim not in (4, 5) or channels != 3:
            raise ValueError(
                "frames must be a tensor (B, F, 3, H, W) or (F, 3, H, W), an array (B, F, H, W, 3) or "
                f"(F, H, W, 3), or a list of PIL images; got shape {tuple(frames.shape)}"
            )
        if frames.dtype in (torch.uint8, np.uint8):
            frames = frames / 255
        if frames.ndim == 4:
            frames = frames[None]
    return processor.preprocess_video(frames, height=height, width=width)


def disable_framewise_coding(vae: AutoencoderKLHunyuanVideo) -> AutoencoderKLHunyuanVideo:
    """Let the VAE see all frames at once, as published; diffusers' tiles in time change the result.

    These are attributes, not configuration, so they must be set on every loaded VAE.
    """
    vae.use_framewise_encoding = False
    vae.use_framewise_decoding = False
    return vae


@contextmanager
def _tiling_for(vae: AutoencoderKLHunyuanVideo, height: int, width: int) -> Iterator[None]:
    """Switch spatial tiling on for frames too large to go through the VAE in one piece."""
    tiling = vae.use_tiling
    vae.use_tiling = tiling or height * width > MAX_UNTILED_PIXELS
    try:
        yield
    finally:
        vae.use_tiling = tiling


def gather_blocks(latents: Tensor, size: int) -> Tensor:
    """Latents (B, C, T, H, W) with blocks of size x size as channels: (B, C size^2, T, H/size, W/size)."""
    return pixel_unshuffle(latents.transpose(1, 2), size).transpose(1, 2)


def spread_blocks(latents: Tensor, size: int) -> Tensor:
    """Undo ``gather_blocks``."""
    return pixel_shuffle(latents.transpose(1, 2), size).transpose(1, 2)


@torch.no_grad()
def encode_video(vae: AutoencoderKLHunyuanVideo, video: Tensor) -> Tensor:
    """Scaled latents, float32 (B, C, T, H/8, W/8), of a video (B, 3, F, H, W) in [-1, 1], F = 4 (T - 1) + 1.

    The latents are the mode of the posterior, times the VAE's scaling factor. Those of a VAE that compresses
    less than 8x8 pixels are gathered in blocks, as channels.
    """
    with _tiling_for(vae, *video.shape[-2:]):
        posterior = vae.encode(video.to(vae.device, vae.dtype)).latent_dist
    latents = posterior.mode().float() * vae.config.scaling_factor
    return gather_blocks(latents, SPATIAL_COMPRESSION // vae.config.spatial_compression_ratio)


@torch.no_grad()
def decode_latents(vae: AutoencoderKLHunyuanVideo, latents: Tensor) -> Tensor:
    """The video, float32 (B, 3, F, H, W) in about [-1, 1], of scaled latents (B, C, T, H/8, W/8)."""
    ratio = vae.config.spatial_compression_ratio
    latents = spread_blocks(latents.float() / vae.config.scaling_factor, SPATIAL_COMPRESSION // ratio)
    latents = latents.to(vae.device, vae.dtype)
    with _tiling_for(vae, latents.shape[-2] * ratio, latents.shape[-1] * ratio):
        return vae.decode(latents).sample.float()
