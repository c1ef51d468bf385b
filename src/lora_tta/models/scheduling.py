"""The Open-Sora v2.0 time shift, sampling schedule and flow-matching objective.

Time t runs from 1 (noise) to 0 (data). Sampling itself is diffusers' ``FlowMatchEulerDiscreteScheduler``,
which gets the shifted schedule through its own ``sigmas`` argument.
"""

import math

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

SIGMA_MIN = 1e-5


def time_shift_alpha(tokens_per_frame: int, num_latent_frames: int) -> float:
    """Strength a of the time shift, (1 + 2 (n - 256) / 3840) sqrt(T), for T latent frames of n tokens each.

    Raises:
        ValueError: if either is not positive.
    """
    if tokens_per_frame < 1 or num_latent_frames < 1:
        raise ValueError(
            "tokens_per_frame and num_latent_frames must be positive, "
            f"got {tokens_per_frame} and {num_latent_frames}"
        )
    return (1 + 2 * (tokens_per_frame - 256) / 3840) * math.sqrt(num_latent_frames)


def shift_timesteps(timesteps: Tensor, alpha: float) -> Tensor:
    """Shift times in [0, 1] towards the noise: a t / (1 + (a - 1) t)."""
    return alpha * timesteps / (1 + (alpha - 1) * timesteps)


def shifted_schedule(num_inference_steps: int, tokens_per_frame: int, num_latent_frames: int) -> Tensor:
    """The sampling times, float64 (num_inference_steps + 1,), falling from 1 to 0.

    Raises:
        ValueError: if ``num_inference_steps`` is not positive.
    """
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be positive, got {num_inference_steps}")
    times = torch.linspace(1, 0, num_inference_steps + 1, dtype=torch.float64)
    return shift_timesteps(times, time_shift_alpha(tokens_per_frame, num_latent_frames))


def set_shifted_timesteps(
    scheduler: FlowMatchEulerDiscreteScheduler,
    num_inference_steps: int,
    tokens_per_frame: int,
    num_latent_frames: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """Set the shifted schedule on a scheduler and return its timesteps, (num_inference_steps,) in [0, 1000].

    Raises:
        ValueError: if the scheduler shifts by itself, which would shift twice.
    """
    if scheduler.config.use_dynamic_shifting or scheduler.config.shift != 1.0:
        raise ValueError(
            "the scheduler must not shift by itself: create it with shift=1 and no dynamic shifting"
        )
    schedule = shifted_schedule(num_inference_steps, tokens_per_frame, num_latent_frames)
    scheduler.set_timesteps(sigmas=schedule[:-1].tolist(), device=device)
    scheduler.set_begin_index(0)
    return scheduler.timesteps


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Noisy latents x_t = (1 - t) x_0 + (1 - (1 - s)(1 - t)) noise with s = 1e-5.

    Args:
        latents: data x_0 (B, ...).
        noise: standard normal noise, shaped like the latents.
        timesteps: times t in [0, 1], (B,) or (1,).
    """
    t = timesteps.reshape(-1, *[1] * (latents.ndim - 1)).to(latents.dtype)
    return (1 - t) * latents + (1 - (1 - SIGMA_MIN) * (1 - t)) * noise


def velocity_target(latents: Tensor, noise: Tensor) -> Tensor:
    """The model's target at every t: (1 - s) noise - x_0, the time derivative of ``add_noise``."""
    return (1 - SIGMA_MIN) * noise - latents
