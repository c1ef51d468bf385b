import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo

from lora_tta.embedded.loop import LOSS_FILE
from lora_tta.embedded.train_vae import build_vae, fold_scaling_factor, train_vae
from lora_tta.errors import UserError
from lora_tta.models.vae import disable_framewise_coding


def test_resumed_training_gives_the_same_weights_and_writes_them(vae_recipe, latent_space, tmp_path):
    whole = train_vae(vae_recipe, latent_space, tmp_path / "whole", num_workers=0)
    train_vae(vae_recipe, latent_space, tmp_path / "halves", num_workers=0, stop_after=3)
    resumed = train_vae(vae_recipe, latent_space, tmp_path / "halves", resume=True, num_workers=0)
    written = AutoencoderKLHunyuanVideo.from_pretrained(tmp_path / "whole" / "vae")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
        assert torch.equal(written.state_dict()[name], value), name
    steps = [json.loads(line)["step"] for line in (tmp_path / "halves" / LOSS_FILE).read_text().splitlines()]
    assert steps == [3, 6]


def test_a_few_steps_lower_the_loss(vae_recipe, latent_space, tmp_path):
    settings = replace(vae_recipe.optimisation, steps=300, learning_rate=1.5e-3, warmup_steps=10)
    recipe = replace(vae_recipe, optimisation=settings, clip_lengths={1: 1.0}, frames_per_step=4)
    train_vae(recipe, latent_space, tmp_path, num_workers=0, stop_after=10)
    for stop_after in (40, 110):  # the components are decoded throughout
        train_vae(recipe, latent_space, tmp_path, resume=True, num_workers=0, stop_after=stop_after)
    first, *_, last = (json.loads(line)["loss"] for line in (tmp_path / LOSS_FILE).read_text().splitlines())
    assert last < 0.9 * first


def test_a_training_ends_at_its_time_limit(vae_recipe, latent_space, tmp_path):
    settings = replace(vae_recipe.optimisation, steps=1000, max_minutes=0.01)
    recipe = replace(vae_recipe, optimisation=settings, clip_lengths={1: 1.0}, frames_per_step=2)
    train_vae(recipe, latent_space, tmp_path, num_workers=0)
    last = json.loads((tmp_path / LOSS_FILE).read_text().splitlines()[-1])
    assert last["progress"] == 1.0
    assert last["step"] < 1000
    assert (tmp_path / "vae" / "config.json").is_file()


def test_resuming_needs_a_checkpoint(vae_recipe, latent_space, tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        train_vae(vae_recipe, latent_space, tmp_path, resume=True, num_workers=0)


def test_a_training_can_begin_with_the_weights_of_another(vae_recipe, latent_space, tmp_path):
    first = train_vae(vae_recipe, latent_space, tmp_path / "first", num_workers=0)
    settings = replace(vae_recipe.optimisation, steps=1, learning_rate=0.0, channels_last=True)
    recipe = replace(vae_recipe, optimisation=settings)
    begun = train_vae(
        recipe, latent_space, tmp_path / "second", num_workers=0, initial=tmp_path / "first" / "vae"
    )
    for name, value in first.state_dict().items():
        torch.testing.assert_close(begun.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_a_decoder_trained_on_alone_leaves_the_latents_as_they_are(vae_recipe, latent_space, tmp_path):
    first = train_vae(vae_recipe, latent_space, tmp_path / "first", num_workers=0)
    recipe = replace(vae_recipe, decoder_only=True)
    later = train_vae(
        recipe, latent_space, tmp_path / "later", num_workers=0, initial=tmp_path / "first" / "vae"
    )
    video = torch.rand(1, 3, 5, 16, 32) * 2 - 1
    with torch.no_grad():
        latents = [vae.encode(video).latent_dist.mode() for vae in (first, later)]
        decoded = [vae.decode(latents[0]).sample for vae in (first, later)]
    torch.testing.assert_close(latents[1], latents[0], rtol=1e-4, atol=1e-4)
    assert (decoded[1] - decoded[0]).abs().max() > 1e-3


@torch.no_grad()
def test_folding_the_scaling_factor_keeps_reconstructions(vae_recipe):
    torch.manual_seed(0)
    vae = build_vae(vae_recipe.config)
    video = torch.rand(1, 3, 5, 16, 32) * 2 - 1
    before = vae.encode(video).latent_dist
    decoded = vae.decode(before.mode()).sample
    fold_scaling_factor(vae)
    after = vae.encode(video).latent_dist
    torch.testing.assert_close(after.mode() * vae.config.scaling_factor, before.mode(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.std * vae.config.scaling_factor, before.std, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(vae.decode(after.mode()).sample, decoded, rtol=1e-3, atol=1e-3)


def test_a_new_vae_passes_colours_on(vae_recipe):
    """Its latents depend on brightness and on both colour differences, which PyTorch's start nearly loses."""
    torch.manual_seed(0)
    vae = disable_framewise_coding(build_vae(vae_recipe.config))
    video = torch.rand(1, 3, 1, 16, 32).requires_grad_()
    colours = torch.autograd.grad(vae.encode(video).latent_dist.mode()[:, :, 0].square().sum(), video)[0]
    spread = torch.linalg.svdvals(colours.movedim(1, 0).flatten(1))
    assert spread[-1] > 0.02 * spread[0]
