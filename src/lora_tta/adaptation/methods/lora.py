"""A LoRA adapter in the transformer: put in, reset for the next clip, saved and loaded in PEFT's format."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_tta.adaptation.adapter_files import WEIGHTS_NAME
from lora_tta.config import AdaptationParams
from lora_tta.models import OpenSoraTransformer3DModel, lora_target_modules
from lora_tta.models.lora_targets import adapter_layers

ADAPTER = "tta"
PEFT_PREFIX = "base_model.model."


def fresh_adapter(
    transformer: OpenSoraTransformer3DModel, rank: int, params: AdaptationParams, seed: int
) -> list[nn.Parameter]:
    """Give the transformer a newly initialised adapter and make it the only trainable part.

    A is drawn from ``seed`` and B is zero (LoRA, arXiv:2106.09685, section 4.1), so the model's output
    is unchanged until the first step. An adapter of the same shape is reset in place, which keeps
    compiled code valid.

    Returns:
        The adapter's parameters, in a fixed order.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=params.alpha_over_rank * rank,
        target_modules=lora_target_modules(
            attention="attention" in params.targets, mlp="mlp" in params.targets
        ),
        init_lora_weights=True,
    )
    with torch.random.fork_rng(devices=[]):
        if not _holds(transformer, config):
            remove_adapter(transformer)
            transformer.requires_grad_(False)
            transformer.add_adapter(config, ADAPTER)
        torch.manual_seed(seed)
        for layer in adapter_layers(transformer):
            _reset(layer)
    return [parameter for name, parameter in transformer.named_parameters() if "lora_" in name]


def remove_adapter(transformer: OpenSoraTransformer3DModel) -> None:
    """Leave the base model as it was before any adapter."""
    if ADAPTER in getattr(transformer, "peft_config", {}):
        transformer.unload_lora()


def adapter_state(transformer: OpenSoraTransformer3DModel) -> dict[str, Tensor]:
    """A copy of the adapter's tensors on the CPU, under PEFT's names."""
    state = get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}


def restore_adapter(transformer: OpenSoraTransformer3DModel, state: dict[str, Tensor]) -> None:
    """Set the adapter's tensors to a state from :func:`adapter_state`."""
    set_peft_model_state_dict(transformer, state, adapter_name=ADAPTER)


def save_adapter(folder: Path, config: PeftConfig, state: dict[str, Tensor]) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    ``PeftModel.from_pretrained(transformer, folder)`` loads it, and so does diffusers'
    ``transformer.load_lora_adapter(folder, weight_name="adapter_model.safetensors",
    prefix="base_model.model")``, which takes rank and alpha from the file's metadata.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    settings = {
        f"{PEFT_PREFIX}{key}": sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }
    save_file(
        {f"{PEFT_PREFIX}{name}": tensor.contiguous() for name, tensor in state.items()},
        folder / WEIGHTS_NAME,
        # One entry only: safetensors writes several in random order, and equal adapters shall be equal files.
        metadata={"lora_adapter_metadata": json.dumps(settings, sort_keys=True)},
    )


def load_adapter(transformer: OpenSoraTransformer3DModel, folder: Path) -> None:
    """Put a saved adapter into the transformer, in place of the one it holds."""
    config = PeftConfig.from_pretrained(folder)
    state = {
        name.removeprefix(PEFT_PREFIX): value for name, value in load_file(folder / WEIGHTS_NAME).items()
    }
    if not _holds(transformer, config):
        remove_adapter(transformer)
        transformer.add_adapter(config, ADAPTER)
    restore_adapter(transformer, state)


def _holds(transformer: OpenSoraTransformer3DModel, config: PeftConfig) -> bool:
    held = getattr(transformer, "peft_config", {}).get(ADAPTER)
    return held is not None and (held.r, held.lora_alpha, held.target_modules) == (
        config.r,
        config.lora_alpha,
        config.target_modules,
    )


def _reset(layer: LoraLayer) -> None:
    # Drawn on the CPU in float32, so that a seed means the same adapter on every device and precision.
    weight = layer.lora_A[ADAPTER].weight
    initial = torch.empty(weight.shape)
    nn.init.kaiming_uniform_(initial, a=5**0.5)
    with torch.no_grad():
        weight.copy_(initial)
        layer.lora_B[ADAPTER].weight.zero_()
