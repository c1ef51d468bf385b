"""The MLP in training, with GELU and its derivative inside the matrix products' kernels.

Each is applied to the tiles of a product before they leave the GPU's registers, which takes no time beside
the product; apart, they are bound by memory (docs/log/gpu_attempts.md). The products are QuACK's, an optional
package in this project's extra ``hopper``.
"""

import torch
from quack.activation import dgelu_tanh_approx
from quack.epilogue import gemm_epilogue
from quack.gemm_config import GemmConfig
from quack.gemm_interface import gemm_act
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from lora_tta.models.transformer import gelu_mlp as plain_gelu_mlp

# The fastest of nine on an H100, for both products of a LoRA step (docs/log/gpu_attempts.md).
TILES = GemmConfig(
    tile_m=128, tile_n=192, pingpong=True, cluster_m=2, cluster_n=1, is_dynamic_persistent=False
)
# Rows of 16 bytes, in values of 16 bits: what the GPU's copies of tiles need.
ALIGNMENT = 8


def gelu_mlp(up: nn.Module, down: nn.Module, hidden_states: Tensor) -> Tensor:
    """The same as ``lora_tta.models.transformer.gelu_mlp``; by kernels if only the input has a gradient."""
    if not (torch.is_grad_enabled() and _suits_kernels(up) and _suits_kernels(down)):
        return plain_gelu_mlp(up, down, hidden_states)
    output, _ = _gelu_mlp(hidden_states.flatten(0, -2), up.weight, up.bias, down.weight, down.bias)
    return output.unflatten(0, hidden_states.shape[:-1])


def _suits_kernels(layer: nn.Module) -> bool:
    """Whether a layer is a frozen linear one, without an adapter, of 16 bits and aligned widths."""
    return (
        type(layer) is nn.Linear
        and not any(parameter.requires_grad for parameter in layer.parameters())
        and layer.weight.dtype in (torch.float16, torch.bfloat16)
        and all(width % ALIGNMENT == 0 for width in layer.weight.shape)
    )


@gemm_epilogue()
def _times_gelu_derivative(acc, c):
    gradient, _ = dgelu_tanh_approx(c, acc)
    return {"D": gradient}


@torch.library.custom_op("lora_tta::gelu_mlp", mutates_args=())
def _gelu_mlp(
    tokens: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    before, activated = gemm_act(tokens, up.t(), bias=up_bias, activation="gelu_tanh_approx", config=TILES)
    return F.linear(activated, down, down_bias), before


@_gelu_mlp.register_fake
def _like_outputs(
    tokens: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    return tuple(tokens.new_empty(len(tokens), len(weight)) for weight in (down, up))


@torch.library.custom_op("lora_tta::gelu_mlp_backward", mutates_args=())
def _gelu_mlp_backward(gradient: Tensor, before: Tensor, up: Tensor, down: Tensor) -> Tensor:
    results = _times_gelu_derivative(gradient.contiguous(), down, before, config=TILES)
    return results["D"] @ up


@_gelu_mlp_backward.register_fake
def _like_tokens(gradient: Tensor, before: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return gradient.new_empty(len(gradient), up.shape[1])


def _remember(ctx: FunctionCtx, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, Tensor]) -> None:
    _, up, _, down, _ = inputs
    ctx.save_for_backward(output[1], up, down)


def _differentiate(ctx: FunctionCtx, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return _gelu_mlp_backward(gradient, *ctx.saved_tensors), None, None, None, None


_gelu_mlp.register_autograd(_differentiate, setup_context=_remember)
