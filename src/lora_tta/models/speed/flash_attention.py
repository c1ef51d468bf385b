"""Attention by FlashAttention-4, as operations that the compiler keeps whole.

On a Hopper GPU it takes an eighth less time than cuDNN's attention, which PyTorch uses by itself, at the same
error (docs/log/gpu_attempts.md). An optional package, in this project's extra ``hopper``.
"""

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn

# Not public, but what PyTorch's own adapter (`torch.nn.attention._fa4`) calls. That adapter serves the whole
# process, and PyTorch 2.11's does not take what newer releases of the package return.
from flash_attn.cute.interface import _flash_attn_bwd, _flash_attn_fwd
from torch import Tensor
from torch.autograd.function import FunctionCtx


def flash_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention of three tensors (B, S, H, D), by PyTorch unless they are of 16 bits."""
    if query.dtype not in (torch.float16, torch.bfloat16):
        return dispatch_attention_fn(query, key, value)
    return _flash_attention(query, key, value)[0]


@torch.library.custom_op("lora_tta::flash_attention", mutates_args=())
def _flash_attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    output, logsumexp, *_ = _flash_attn_fwd(query, key, value, return_lse=True)
    return output, logsumexp


@_flash_attention.register_fake
def _like_output(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = query.shape
    return query.new_empty(query.shape), query.new_empty((batch, heads, length), dtype=torch.float32)


@torch.library.custom_op("lora_tta::flash_attention_backward", mutates_args=())
def _flash_attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, logsumexp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    return _flash_attn_bwd(query, key, value, output, gradient, logsumexp, deterministic=deterministic)


@_flash_attention_backward.register_fake
def _like_inputs(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, logsumexp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _remember(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _differentiate(ctx: FunctionCtx, gradient: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return _flash_attention_backward(gradient, *ctx.saved_tensors)


_flash_attention.register_autograd(_differentiate, setup_context=_remember)
