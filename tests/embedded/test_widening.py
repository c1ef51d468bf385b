from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import nn

from lora_tta.embedded.train_transformer import TextConditionedTransformer
from lora_tta.embedded.train_vae import build_vae
from lora_tta.embedded.widening import widen, widen_vae
from lora_tta.errors import UserError


@pytest.fixture
def narrow_vae(vae_recipe) -> AutoencoderKLHunyuanVideo:
    torch.manual_seed(0)
    vae = build_vae(vae_recipe.config | {"latent_channels": 4})
    nn.init.normal_(vae.quant_conv.bias)
    return vae


@torch.no_grad()
def test_a_wider_vae_draws_what_the_narrow_one_draws(vae_recipe, narrow_vae):
    wide = build_vae(vae_recipe.config | {"latent_channels": 7})
    widen_vae(wide, narrow_vae)
    video = torch.rand(1, 3, 5, 16, 32) * 2 - 1
    expected, seen = (vae.encode(video).latent_dist for vae in (narrow_vae, wide))
    assert seen.mean.shape[1] == 7
    torch.testing.assert_close(seen.mean[:, :4], expected.mean)
    torch.testing.assert_close(seen.logvar[:, :4], expected.logvar)
    assert seen.mean[:, 4:].std() > 0  # the new channels show something of the picture
    torch.testing.assert_close(wide.decode(seen.mean).sample, narrow_vae.decode(expected.mean).sample)


@torch.no_grad()
def test_a_wider_transformer_says_of_the_first_channels_what_the_narrow_one_says(transformer_recipe):
    def model(channels: int) -> TextConditionedTransformer:
        sizes = {"in_channels": 4 * channels, "condition_channels": 4 * (channels + 1)}
        return TextConditionedTransformer(
            replace(transformer_recipe, config=transformer_recipe.config | sizes)
        )

    torch.manual_seed(0)
    narrow, wide = model(8), model(12)
    for parameter in narrow.parameters():
        nn.init.normal_(parameter, std=0.02)
    widen(wide, narrow)
    noisy, condition = torch.randn(1, 8, 3, 2, 4), torch.randn(1, 6, 36)
    times, prompts = torch.tensor([0.5]), torch.tensor([0])
    expected = narrow(noisy, times, condition, prompts)
    more = torch.nn.functional.pad(noisy, (0, 0, 0, 0, 0, 0, 0, 4))
    seen = wide(more, times, torch.nn.functional.pad(condition, (0, 16)), prompts)
    assert expected.abs().mean() > 0
    torch.testing.assert_close(seen[..., :32], expected)


@torch.no_grad()
def test_a_smaller_layer_takes_the_first_entries():
    large, small = nn.Linear(4, 6), nn.Linear(3, 2)
    widen(small, large)
    assert torch.equal(small.weight, large.weight[:2, :3])
    assert torch.equal(small.bias, large.bias[:2])


def test_weights_of_other_layers_are_refused():
    """Blocks that are left out silently would be missed."""
    with pytest.raises(UserError, match=r"other layers than the recipe: 1\.bias"):
        widen(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))


def test_a_vae_of_other_layers_is_refused(vae_recipe, narrow_vae):
    deeper = build_vae(vae_recipe.config | {"layers_per_block": 2})
    for vae, narrow in ((deeper, narrow_vae), (narrow_vae, deeper)):
        with pytest.raises(UserError, match="other layers than the recipe: decoder"):
            widen_vae(vae, narrow)
