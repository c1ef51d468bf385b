"""Linear layers that share an input as one matrix product, adapters included.

Three products of a third of the size waste part of the GPU on the last wave of tiles of each, and the
low-rank products of three adapters are so small that each costs little more than its launch.
"""

from collections.abc import Sequence

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn


class StackedLinears(nn.Module):
    """The weights of several linear layers, laid out one below the other.

    Each layer's own weight becomes a part of the stack, so merging an adapter into the one, or loading it,
    changes the other, and nothing is stored twice. Moving the model or changing its dtype breaks the tie.

    Args:
        layers: linear layers of the same input width, with PEFT's adapters or without.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        linears = [layer.get_base_layer() if isinstance(layer, LoraLinear) else layer for layer in layers]
        self.register_buffer("weight", _stack([linear.weight for linear in linears]), persistent=False)
        self.register_buffer("bias", _stack([linear.bias for linear in linears]), persistent=False)

    def forward(self, hidden_states: Tensor, layers: Sequence[nn.Module]) -> list[Tensor]:
        """What `[layer(hidden_states) for layer in layers]` computes, for the layers of the stack."""
        if not _can_go_together(layers):
            return [layer(hidden_states) for layer in layers]
        outputs = nn.functional.linear(hidden_states, self.weight, self.bias)
        outputs = list(outputs.split([layer.out_features for layer in layers], dim=-1))
        first = layers[0]
        if not isinstance(first, LoraLinear) or first.merged or first.disable_adapters:
            return outputs
        for name in first.active_adapters:
            downs = [layer.lora_A[name].weight for layer in layers]
            reduced = nn.functional.linear(hidden_states, torch.cat(downs))
            parts = reduced.split([len(down) for down in downs], dim=-1)
            outputs = [
                output + layer.lora_B[name](part) * layer.scaling[name]
                for output, layer, part in zip(outputs, layers, parts, strict=True)
            ]
        return outputs


def _can_go_together(layers: Sequence[nn.Module]) -> bool:
    """Whether the layers are plain, or have the same plain LoRA adapters in the same state."""
    if not all(isinstance(layer, LoraLinear) for layer in layers):
        return all(type(layer) is nn.Linear for layer in layers)
    states = [(layer.active_adapters, layer.merged, layer.disable_adapters) for layer in layers]
    return all(state == states[0] for state in states) and all(_is_plain(layer) for layer in layers)


def _is_plain(layer: LoraLinear) -> bool:
    dropouts = layer.lora_dropout.values()
    return (
        not layer.lora_variant
        and not any(layer.lora_bias.values())
        and all(isinstance(dropout, nn.Identity) for dropout in dropouts)
        and all(name in layer.lora_A for name in layer.active_adapters)
    )


def _stack(parameters: Sequence[nn.Parameter | None]) -> Tensor | None:
    if any(parameter is None for parameter in parameters):
        return None
    stacked = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, stacked.split([len(p) for p in parameters]), strict=True):
        parameter.data = part
    return stacked
