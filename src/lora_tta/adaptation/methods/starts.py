"""Where low-rank adapters start from: at random, or at parts of the weights that they adapt."""

from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

# Starts that are a part of the weights, which the weights then lack until the adapter is taken out.
TAKEN_FROM_WEIGHTS = ("pissa", "olora")


def draw(layer: LoraLayer, adapter: str, start: bool | str) -> None:
    """Set an adapter's matrices to random ones whose product is zero.

    Drawn on the CPU in float32, so that a seed means the same adapter on every device and precision.

    Args:
        layer: has the adapter.
        adapter: its name.
        start: True draws A as LoRA's published code does, ``gaussian`` with the deviation 1 / rank, and B is
            zero. ``orthogonal`` draws both so that they annul each other
            (https://datta0.github.io/posts/rethink-lora-init).
    """
    down, up = matrices(layer, adapter)
    initial_down, initial_up = torch.empty(down.shape), torch.zeros(up.shape)
    rank = len(down)
    if start == "gaussian":
        nn.init.normal_(initial_down, std=1 / rank)
    elif start == "orthogonal":
        basis = torch.linalg.qr(torch.randn(rank, rank))[0]
        initial_down = (torch.randn(down.shape[1], rank // 2) @ basis[0::2]).T / 10
        initial_up = torch.randn(len(up), rank // 2) @ basis[1::2] / 10
    else:
        nn.init.kaiming_uniform_(initial_down, a=5**0.5)
    with torch.no_grad():
        down.copy_(initial_down)
        up.copy_(initial_up)
        for magnitude in layer.lora_magnitude_vector.values():
            weight = cast(nn.Linear, layer.get_base_layer()).weight
            cast(nn.Linear, magnitude).weight.copy_(torch.linalg.norm(weight.float(), dim=1))


@torch.no_grad()
def take_from_weight(layer: LoraLayer, adapter: str, start: str) -> Tensor:
    """Set an adapter's matrices to a part of the layer's weight, and take this part out of the weight.

    ``pissa`` takes the largest singular values (https://arxiv.org/abs/2404.02948), ``olora`` the first
    columns of the QR decomposition (https://arxiv.org/abs/2406.01775). PEFT computes them.

    Returns:
        A copy of the whole weight on the CPU.
    """
    weight = cast(nn.Linear, layer.get_base_layer()).weight
    storage, whole = weight.data, weight.detach().clone()
    parameters = matrices(layer, adapter)
    before = [parameter.data for parameter in parameters]
    if start == "pissa":
        layer.pissa_init(adapter, start)
    else:
        layer.olora_init(adapter)
    for parameter, old in zip(parameters, before, strict=True):
        parameter.data = old.copy_(parameter.data)
    down, up = (parameter.float() for parameter in parameters)
    # By the rounded matrices, and in place: compiled code and stacks of weights keep their hold on it.
    weight.data = storage.copy_(whole.float() - layer.scaling[adapter] * up @ down)
    return whole.cpu()


def matrices(layer: LoraLayer, adapter: str) -> tuple[nn.Parameter, nn.Parameter]:
    """A (rank, inputs) and B (outputs, rank)."""
    down, up = (cast(nn.Linear, part[adapter]).weight for part in (layer.lora_A, layer.lora_B))
    return cast(nn.Parameter, down), cast(nn.Parameter, up)
