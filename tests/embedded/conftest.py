"""Recipes small enough to train for a few steps on a CPU."""

from dataclasses import replace

import pytest

from lora_tta.embedded.latents import LatentSpace, fit_latent_space
from lora_tta.embedded.recipe import TransformerRecipe, VAERecipe, Video

SMALL = Video(height=16, width=32, num_frames=17, conditioning_frames=9)


@pytest.fixture(scope="session")
def small_video() -> Video:
    return SMALL


@pytest.fixture(scope="session")
def latent_space() -> LatentSpace:
    return fit_latent_space(SMALL, VAERecipe().config["latent_channels"], clips=70)


@pytest.fixture
def vae_recipe() -> VAERecipe:
    recipe = VAERecipe(video=SMALL, clip_lengths={17: 0.3, 9: 0.3, 1: 0.4}, frames_per_step=17)
    settings = replace(
        recipe.optimisation, steps=6, batch_size=4, learning_rate=3e-3, warmup_steps=1, mixed_precision="no"
    )
    config = recipe.config | {"block_out_channels": (4, 8, 8)}
    return replace(recipe, config=config, optimisation=settings)


@pytest.fixture
def transformer_recipe() -> TransformerRecipe:
    recipe = TransformerRecipe(
        video=replace(SMALL, num_frames=65), buffer_size=4, fresh_clips=2, refresh_every=2
    )
    settings = replace(
        recipe.optimisation,
        steps=6,
        batch_size=4,
        learning_rate=3e-3,
        warmup_steps=1,
        mixed_precision="no",
        compile=False,
    )
    config = recipe.config | {"num_layers": 1, "num_single_layers": 1}
    return replace(recipe, config=config, optimisation=settings)
