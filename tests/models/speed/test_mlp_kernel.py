"""The MLP with GELU inside its products' kernels, against plain layers in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lora_tta.models.speed.acceleration import has_hopper_kernels
from lora_tta.models.transformer import gelu_mlp as plain_gelu_mlp

WIDTH, TOKENS = 64, 300

hopper = pytest.mark.skipif(
    not (torch.cuda.is_available() and has_hopper_kernels("quack.epilogue")),
    reason="QuACK is an optional package for Hopper GPUs",
)


def build_layers(dtype: torch.dtype = torch.bfloat16, bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    up, down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH, bias=bias)
    return tuple(layer.requires_grad_(False).to("cuda", dtype) for layer in (up, down))


def random_tokens(dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(2, TOKENS, WIDTH, device="cuda").to(dtype).requires_grad_()


def compute_exactly(layers: tuple[nn.Linear, nn.Linear], tokens: Tensor) -> Tensor:
    return plain_gelu_mlp(*(copy.deepcopy(layer).double() for layer in layers), tokens.double())


@pytest.mark.gpu
@hopper
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("compiled", [False, True])
def test_outputs_and_gradients_are_as_exact_as_bfloat16(compiled, bias, relative_error):
    from lora_tta.models.speed.mlp_kernel import gelu_mlp

    function = torch.compile(gelu_mlp, fullgraph=True) if compiled else gelu_mlp
    layers, tokens = build_layers(bias=bias), random_tokens()
    expected, output = compute_exactly(layers, tokens), function(*layers, tokens)
    assert output.shape == expected.shape
    assert relative_error(output, expected) < 4e-3
    gradient = torch.randn_like(output).mT.contiguous().mT
    (expected_gradient,) = torch.autograd.grad(expected, tokens, gradient.double())
    (result,) = torch.autograd.grad(output, tokens, gradient)
    assert relative_error(result, expected_gradient) < 5e-3


@pytest.mark.gpu
@hopper
@pytest.mark.parametrize("case", ["no gradient", "float32", "trained weights", "odd width"])
def test_what_the_kernels_are_not_for_is_computed_by_plain_layers(case, relative_error, monkeypatch):
    from lora_tta.models.speed import mlp_kernel

    monkeypatch.setattr(mlp_kernel, "_gelu_mlp", None)
    dtype = torch.float32 if case == "float32" else torch.bfloat16
    layers, tokens = build_layers(dtype), random_tokens(dtype)
    if case == "trained weights":
        layers[1].requires_grad_()
    if case == "odd width":
        layers = tuple(
            nn.Linear(*widths, device="cuda", dtype=dtype).requires_grad_(False)
            for widths in ((WIDTH, 12), (12, WIDTH))
        )
    with torch.set_grad_enabled(case != "no gradient"):
        output = mlp_kernel.gelu_mlp(*layers, tokens)
    assert relative_error(output, compute_exactly(layers, tokens)) < 1e-2


@pytest.mark.gpu
@hopper
def test_operations_are_what_the_compiler_takes_them_for():
    from lora_tta.models.speed.mlp_kernel import _gelu_mlp

    up, down = build_layers()
    tokens = random_tokens().detach().flatten(0, 1).requires_grad_()
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(_gelu_mlp, (tokens, up.weight, up.bias, down.weight, None), test_utils=checks)
