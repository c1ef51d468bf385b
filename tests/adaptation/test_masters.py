import pytest
import torch
from torch import nn

from lora_tta.adaptation.masters import Masters
from lora_tta.adaptation.methods import MethodSlot
from lora_tta.adaptation.trajectory import adapt


def descend(dtype: torch.dtype, steps: int = 100) -> torch.Tensor:
    """The parameter after steps of 1e-4 down the gradient 1."""
    parameter = nn.Parameter(torch.ones(4, dtype=dtype))
    masters = Masters([parameter])
    optimizer = torch.optim.SGD(masters.weights, lr=1e-4)
    for _ in range(steps):
        parameter.sum().backward()
        masters.take_gradients()
        optimizer.step()
        optimizer.zero_grad()
        masters.give_back()
    return parameter.detach()


def test_steps_that_bfloat16_would_round_away_add_up():
    assert torch.equal(torch.ones(1, dtype=torch.bfloat16) - 1e-4, torch.ones(1, dtype=torch.bfloat16))
    assert descend(torch.bfloat16).float() == pytest.approx([0.99] * 4, abs=2**-8)


def test_float32_parameters_are_optimised_as_they_are():
    parameter = nn.Parameter(torch.ones(4))
    masters = Masters([parameter])
    assert masters.weights[0] is parameter
    assert masters.state() == []


def test_an_adaptation_in_bfloat16_is_continued_bit_identically(backbone, conditioning, params):
    backbone.network.to(torch.bfloat16)
    given = conditioning.to(torch.device("cpu"), torch.bfloat16)
    adaptation = params.adaptation.at({"rank": 2, "learning_rate": 1e-4, "num_steps": 8})
    method = MethodSlot(backbone).put(adaptation.method)
    half, whole = adapt(backbone, method, given, adaptation, seed=0, save_at=[4])
    continued = list(adapt(backbone, method, given, adaptation, seed=0, start=half))[-1]
    assert continued.losses == whole.losses
    for name, tensor in whole.parameters.items():
        assert torch.equal(continued.parameters[name], tensor)
    assert all(tensor.dtype == torch.float32 for tensor in whole.optimizer["masters"])
