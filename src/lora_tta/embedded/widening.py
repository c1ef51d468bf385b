"""Start a training from the weights of a model of other sizes: fewer latent channels, fewer hidden values."""

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn

from lora_tta.errors import UserError


def _copy_corner(target: Tensor, source: Tensor) -> None:
    """Copy what both have: the first entries along every axis."""
    corner = tuple(slice(min(sizes)) for sizes in zip(target.shape, source.shape, strict=True))
    target[corner] = source[corner]


def _weights_for(module: nn.Module, narrow: nn.Module) -> dict[str, Tensor]:
    """The weights of ``narrow``, if both have the same layers."""
    weights = narrow.state_dict()
    if other := weights.keys() ^ module.state_dict().keys():
        raise UserError(
            f"the weights to start from have other layers than the recipe: {min(other)} is in one of them"
        )
    return weights


@torch.no_grad()
def widen(module: nn.Module, narrow: nn.Module) -> None:
    """Take over a module's weights, of each what fits: the first entries along every axis.

    Entries that ``narrow`` lacks stay as they are. A transformer's first channels become those of ``narrow``.

    Raises:
        UserError: the modules have other layers.
    """
    weights = _weights_for(module, narrow)
    for name, target in module.state_dict().items():
        _copy_corner(target, weights[name])


@torch.no_grad()
def widen_vae(vae: AutoencoderKLHunyuanVideo, narrow: AutoencoderKLHunyuanVideo) -> None:
    """Take over a VAE's weights. The first latent channels are its own, and nothing is drawn from the others.

    The convolutions before the latents hold the means first and then the log variances.

    Raises:
        UserError: the VAEs have other layers.
    """
    weights = _weights_for(vae, narrow)
    nn.init.dirac_(vae.quant_conv.weight)
    nn.init.dirac_(vae.post_quant_conv.weight)
    nn.init.zeros_(vae.decoder.conv_in.conv.weight)
    for name, target in vae.state_dict().items():
        source = weights[name]
        if name == "quant_conv.weight":
            target, source = (value.unflatten(1, (2, -1)) for value in (target, source))
        if name.startswith(("quant_conv.", "encoder.conv_out.")):
            target, source = (value.unflatten(0, (2, -1)) for value in (target, source))
        _copy_corner(target, source)
