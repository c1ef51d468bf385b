import pytest
import torch
from torch import nn

from lora_tta.adaptation.masters import Masters
from lora_tta.adaptation.methods import MethodSlot
from lora_tta.adaptation.trajectory import adapt
from lora_tta.backbones.opensora import OpenSoraBackbone
from lora_tta.models.loading import load_pipeline
from lora_tta.models.speed.acceleration import accelerate


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


@pytest.mark.gpu
def test_on_a_gpu_small_steps_in_bfloat16_follow_those_in_float32(tiny_model, conditioning, params):
    adaptation = params.adaptation.at({"rank": 2, "learning_rate": 1e-4, "num_steps": 40})
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        pipeline = load_pipeline(tiny_model, "cuda", dtype)
        accelerate(pipeline.transformer)
        backbone = OpenSoraBackbone(pipeline)
        method = MethodSlot(backbone).put(adaptation.method)
        given = conditioning.to(backbone.device, dtype)
        (snapshot,) = adapt(backbone, method, given, adaptation, seed=0)
        method.attach(seed=0)
        fresh = method.state()
        changes = [
            (snapshot.parameters[name].float() - fresh[name].float()).flatten() for name in sorted(fresh)
        ]
        moved[dtype] = torch.cat(changes)
    cosine = torch.cosine_similarity(*moved.values(), dim=0)
    ratio = moved[torch.bfloat16].norm() / moved[torch.float32].norm()
    print(f"cosine {cosine:.4f}, length {ratio:.4f} of float32's")
    assert cosine > 0.9
    assert ratio == pytest.approx(1, abs=0.1)
