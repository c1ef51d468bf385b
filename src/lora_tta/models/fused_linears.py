"""Linear layers that share an input as one matrix product, adapters included.

Three products of a third of the size waste part of the GPU on the last wave of tiles of each, and the
low-rank products of three adapters are so small that each costs little more than its launch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional as F


class Projected(NamedTuple):
    """Outputs of n linear layers side by side; the adapters' part may still be apart.

    Attributes:
        output: (..., width of all outputs).
        reduced: the adapters' hidden values side by side, (..., n * rank), or None.
        up: the scaled weights that map them to the outputs, one layer's below the other's, (width, rank).
    """

    output: Tensor
    reduced: Tensor | None = None
    up: Tensor | None = None

    def whole(self) -> Tensor:
        """The outputs with the adapters' part added, (..., width of all outputs)."""
        if self.reduced is None:
            return self.output
        parts = self.reduced.split(self.up.shape[1], dim=-1)
        ups = self.up.chunk(len(parts))
        return self.output + torch.cat([F.linear(*pair) for pair in zip(parts, ups, strict=True)], dim=-1)


def project(
    hidden_states: Tensor, layers: Sequence[nn.Module], stacked: "StackedLinears | None" = None
) -> Projected:
    """The outputs of linear layers of hidden states (..., width).

    Args:
        hidden_states: the input that the layers share.
        layers: linear layers of equal output widths, with PEFT's adapters or without.
        stacked: their stack, if there is one.
    """
    if stacked is not None:
        return stacked(hidden_states, layers)
    return Projected(torch.cat([layer(hidden_states) for layer in layers], dim=-1))


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

    def forward(self, hidden_states: Tensor, layers: Sequence[nn.Module]) -> Projected:
        """The result of :func:`project` for the layers of the stack and their present adapters."""
        if not _can_go_together(layers):
            return project(hidden_states, layers)
        output = F.linear(hidden_states, self.weight, self.bias)
        first = layers[0]
        if not isinstance(first, LoraLinear) or first.merged or first.disable_adapters:
            return Projected(output)
        names = first.active_adapters
        down = torch.cat([layer.lora_A[name].weight for layer in layers for name in names])
        ups = [
            torch.cat([layer.lora_B[name].weight * layer.scaling[name] for name in names], dim=1)
            for layer in layers
        ]
        return Projected(output, F.linear(hidden_states, down), torch.cat(ups))


def _can_go_together(layers: Sequence[nn.Module]) -> bool:
    """Whether the layers are plain, or have plain LoRA adapters of the same shapes in the same state."""
    if not all(isinstance(layer, LoraLinear) for layer in layers):
        return all(type(layer) is nn.Linear for layer in layers)
    states = [(layer.active_adapters, layer.merged, layer.disable_adapters) for layer in layers]
    if not all(state == states[0] for state in states) or not all(_is_plain(layer) for layer in layers):
        return False
    shapes = [[layer.lora_B[name].weight.shape for name in layer.active_adapters] for layer in layers]
    return all(shape == shapes[0] for shape in shapes)


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
