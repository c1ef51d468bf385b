import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from lora_tta.models.scheduling import (
    add_noise,
    set_shifted_timesteps,
    shift_timesteps,
    shifted_schedule,
    time_shift_alpha,
    velocity_target,
)


def test_schedule_matches_the_published_code(mmdit_io, relative_error):
    schedule = shifted_schedule(num_inference_steps=13, tokens_per_frame=6, num_latent_frames=17)
    assert relative_error(schedule, mmdit_io["schedule"]) < 1e-6


def test_scheduler_walks_the_shifted_schedule():
    scheduler = FlowMatchEulerDiscreteScheduler()
    timesteps = set_shifted_timesteps(scheduler, 13, tokens_per_frame=6, num_latent_frames=17)
    expected = shifted_schedule(13, 6, 17).float()
    torch.testing.assert_close(scheduler.sigmas, expected)
    torch.testing.assert_close(timesteps, 1000 * expected[:-1])


def test_alpha_is_linear_in_tokens_and_grows_with_the_root_of_frames():
    assert time_shift_alpha(256, 1) == 1
    assert time_shift_alpha(4096, 1) == 3
    assert time_shift_alpha(12 * 21, 17) == pytest.approx((1 - 8 / 3840) * math.sqrt(17))


def test_shift_keeps_the_ends_and_moves_the_middle_towards_noise():
    times = torch.tensor([0.0, 0.5, 1.0])
    assert shift_timesteps(times, 3.0).tolist() == [0.0, 0.75, 1.0]


def test_schedulers_that_shift_by_themselves_are_refused():
    with pytest.raises(ValueError, match="must not shift by itself"):
        set_shifted_timesteps(FlowMatchEulerDiscreteScheduler(shift=3.0), 4, 6, 17)


@pytest.mark.parametrize("sizes", [(0, 6, 17), (4, 0, 17), (4, 6, 0)])
def test_empty_schedules_are_refused(sizes):
    with pytest.raises(ValueError, match="must be positive"):
        shifted_schedule(*sizes)


def test_noise_and_data_are_the_ends_of_the_path():
    latents, noise = torch.randn(2, 2, 16, 3, 4, 6)
    noisy = add_noise(latents, noise, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(noisy[0], latents[0] + 1e-5 * noise[0])
    torch.testing.assert_close(noisy[1], noise[1])


def test_target_is_the_velocity_of_the_path():
    latents, noise = torch.randn(2, 1, 16, 3, dtype=torch.float64)
    step = torch.tensor([1e-3], dtype=torch.float64)
    times = torch.tensor([0.4], dtype=torch.float64)
    slope = (add_noise(latents, noise, times + step) - add_noise(latents, noise, times)) / step
    torch.testing.assert_close(slope, velocity_target(latents, noise))
