"""The published code's weights in the diffusers modules, by the converter of whole checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn

from lora_tta.models import OpenSoraTransformer3DModel
from lora_tta.models.conversion.tensors import TransformerTensorConverter, check_converted_keys, vae_config
from lora_tta.models.vae import disable_framewise_coding

Model = TypeVar("Model", bound=nn.Module)


def convert_transformer(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any]
) -> OpenSoraTransformer3DModel:
    """A transformer with the weights of a published state dict, in the separate or the fused layout."""
    convert_tensor = TransformerTensorConverter(config, state_dict)
    return _with_weights(OpenSoraTransformer3DModel(**convert_tensor.config), state_dict, convert_tensor)


def convert_vae(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> AutoencoderKLHunyuanVideo:
    """A VAE that codes whole videos, with the weights of a published state dict."""
    vae = AutoencoderKLHunyuanVideo(**vae_config(config))
    return disable_framewise_coding(_with_weights(vae, state_dict, lambda key, tensor: {key: tensor}))


def _with_weights(
    model: Model,
    state_dict: Mapping[str, Tensor],
    convert_tensor: Callable[[str, Tensor], dict[str, Tensor]],
) -> Model:
    converted = {
        new_key: part.clone(memory_format=torch.contiguous_format)
        for key, tensor in state_dict.items()
        for new_key, part in convert_tensor(key, tensor).items()
    }
    check_converted_keys(model.state_dict(), {key: tensor.shape for key, tensor in converted.items()})
    model.load_state_dict(converted, assign=True)
    return model.eval()
