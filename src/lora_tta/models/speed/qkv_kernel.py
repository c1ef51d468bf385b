"""Queries, keys and values made ready for attention by one GPU kernel each way.

Adding the adapters' part, normalising, rotating and joining text and video are bound by memory. The kernel
reads and writes every value once; what the compiler makes of the same steps takes two to three times as long
(docs/log/gpu_attempts.md). Needs Triton, which comes with PyTorch for CUDA.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from lora_tta.models.fused_linears import Projected
from lora_tta.models.transformer import NORM_EPS, QKV, RotaryEmbedding

# The shortest sum that tensor cores compute.
LEAST_RANK = 16


class Layout(NamedTuple):
    """One program's share of a kernel: ``tokens`` x ``heads``, head after head, in ``num_warps`` warps."""

    tokens: int
    heads: int
    num_warps: int


# With adapters, the fastest on an H200 of those that benchmarks/qkv_layouts.py compares. Without, a program
# takes all heads of a token at once, which are side by side in memory.
FORWARD_LAYOUT = Layout(tokens=64, heads=4, num_warps=4)
BACKWARD_LAYOUT = Layout(tokens=64, heads=4, num_warps=4)


def qkv_heads(streams: list[Projected], norms: list[Tensor], rotary_emb: RotaryEmbedding) -> QKV:
    """The same as ``lora_tta.models.transformer.qkv_heads``, with gradients for ``streams`` alone.

    D must be a power of 2.
    """
    if any(stream.reduced is None for stream in streams):
        streams = [Projected(stream.whole()) for stream in streams]
    outputs, reduced, ups = (
        [part for part in parts if part is not None] for parts in zip(*streams, strict=True)
    )
    # Values of one stream can stay where they are, unless something is added or their gradient comes back.
    with_values = len(streams) > 1 or len(reduced) > 0 or torch.is_grad_enabled()
    query, key, *values = _qkv_heads(outputs, reduced, ups, norms, *rotary_emb, with_values)
    return query, key, *(values or [outputs[0].chunk(3, dim=-1)[2].unflatten(-1, (-1, len(norms[0])))])


@torch.library.custom_op("lora_tta::qkv_heads", mutates_args=())
def _qkv_heads(
    outputs: list[Tensor],
    reduced: list[Tensor],
    ups: list[Tensor],
    norms: list[Tensor],
    cos: Tensor,
    sin: Tensor,
    with_values: bool,
) -> list[Tensor]:
    heads = _empty_heads(outputs, norms, with_values)
    targets = heads if with_values else [*heads, heads[0]]
    inputs = (outputs, reduced, ups, norms, cos, sin)
    _launch(_forward_kernel, FORWARD_LAYOUT, *inputs, targets, with_values=with_values)
    return heads


def _empty_heads(outputs: list[Tensor], norms: list[Tensor], with_values: bool) -> list[Tensor]:
    (batch, _, width), head_dim = outputs[0].shape, len(norms[0])
    shape = (batch, sum(output.shape[1] for output in outputs), width // (3 * head_dim), head_dim)
    return [outputs[0].new_empty(shape) for _ in range(3 if with_values else 2)]


_qkv_heads.register_fake(
    lambda outputs, reduced, ups, norms, cos, sin, with_values: _empty_heads(outputs, norms, with_values)
)


@torch.library.custom_op("lora_tta::qkv_heads_backward", mutates_args=())
def _qkv_heads_backward(
    gradients: list[Tensor],
    outputs: list[Tensor],
    reduced: list[Tensor],
    ups: list[Tensor],
    norms: list[Tensor],
    cos: Tensor,
    sin: Tensor,
) -> list[Tensor]:
    results = _empty_gradients(outputs)
    gradients = [gradient.contiguous() for gradient in gradients]
    _launch(_backward_kernel, BACKWARD_LAYOUT, outputs, reduced, ups, norms, cos, sin, gradients, results)
    return results


def _empty_gradients(outputs: list[Tensor]) -> list[Tensor]:
    return [output.new_empty(output.shape) for output in outputs]


_qkv_heads_backward.register_fake(lambda gradients, outputs, *others: _empty_gradients(outputs))


def _remember_inputs(ctx: FunctionCtx, inputs: tuple, output: list[Tensor]) -> None:
    outputs, reduced, ups, norms, cos, sin, _ = inputs
    ctx.lengths = len(outputs), len(reduced), len(ups), len(norms)
    ctx.save_for_backward(*outputs, *reduced, *ups, *norms, cos, sin)


def _differentiate(ctx: FunctionCtx, gradients: list[Tensor]) -> tuple:
    *tensors, cos, sin = ctx.saved_tensors
    lists = []
    for length in ctx.lengths:
        lists.append(tensors[:length])
        tensors = tensors[length:]
    outputs, reduced, ups, norms = lists
    output_gradients = _qkv_heads_backward(gradients, outputs, reduced, ups, norms, cos, sin)
    of_adapters = [
        _differentiate_adapters(*parts) for parts in zip(output_gradients, reduced, ups, strict=False)
    ]
    reduced_gradients, up_gradients = [list(parts) for parts in zip(*of_adapters, strict=True)] or ([], [])
    return output_gradients, reduced_gradients, up_gradients, [None] * len(norms), None, None, None


def _differentiate_adapters(gradient: Tensor, reduced: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the two factors of the adapters' part, from the gradient of the sum.

    Queries, keys and values in one product each: most of the second one is not wanted, but it is bound by
    reading the gradient.
    """
    rank = up.shape[1]
    parts = [F.pad(part, (index * rank, (2 - index) * rank)) for index, part in enumerate(up.chunk(3))]
    reduced_gradient = gradient @ torch.cat(parts)
    products = gradient.flatten(0, 1).t() @ reduced.flatten(0, 1)
    own = [part.narrow(1, index * rank, rank) for index, part in enumerate(products.chunk(3))]
    return reduced_gradient, torch.cat(own)


_qkv_heads.register_autograd(_differentiate, setup_context=_remember_inputs)


def _launch(
    kernel: triton.JITFunction,
    layout: Layout,
    outputs: list[Tensor],
    reduced: list[Tensor],
    ups: list[Tensor],
    norms: list[Tensor],
    cos: Tensor,
    sin: Tensor,
    heads: list[Tensor],
    output_gradients: list[Tensor] | None = None,
    **constants: bool,
) -> None:
    """Run a kernel for one stream after the other."""
    batch, seq_len, num_heads, head_dim = heads[0].shape
    rank, block_rank, block_heads = 0, 0, triton.next_power_of_2(num_heads)
    if ups:
        rank = ups[0].shape[1]
        block_rank, block_heads = max(LEAST_RANK, triton.next_power_of_2(rank)), 1
    else:
        layout = Layout(tokens=1, heads=block_heads, num_warps=4)
    first_token = 0
    for index, output in enumerate(outputs):
        num_tokens = output.shape[1]
        adapters = (reduced[index], ups[index]) if ups else (output, output)
        tensors = (output, *adapters, *norms[2 * index : 2 * index + 2], cos, sin)
        kernel[triton.cdiv(num_tokens, layout.tokens), triton.cdiv(num_heads, layout.heads), batch](
            *(tensor.contiguous() for tensor in tensors),
            *heads,
            *([output_gradients[index]] if output_gradients else []),
            num_tokens=num_tokens,
            first_token=first_token,
            seq_len=seq_len,
            rotary_stride=seq_len if len(cos) > 1 else 0,
            rank=rank,
            num_heads=num_heads,
            block_tokens=layout.tokens,
            block_heads=block_heads,
            loop_heads=layout.heads,
            block_rank=block_rank,
            half=head_dim // 2,
            eps=NORM_EPS,
            num_warps=layout.num_warps,
            **constants,
        )
        first_token += num_tokens


@triton.jit
def _load(pointer, offsets, mask):
    return tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _load_sum(
    output, reduced, up, part, token, head, mask, first_head, num_tokens, rank,
    num_heads: tl.constexpr, block_rank: tl.constexpr, half: tl.constexpr,
):  # fmt: skip
    """The halves of heads of the queries, keys or values (``part``), with what the adapters add."""
    row = tl.program_id(2).to(tl.int64) * num_tokens + token
    column = tl.arange(0, half)[None, :]
    offset = ((row * 3 + part) * num_heads + head) * 2 * half + column
    first, second = _load(output, offset, mask), _load(output, offset + half, mask)
    if block_rank > 0:
        low = tl.arange(0, block_rank)
        reduced_mask = mask & (low[None, :] < rank)
        reduced_part = tl.load(reduced + (row * 3 + part) * rank + low[None, :], mask=reduced_mask, other=0.0)
        up_offset = ((part * num_heads + first_head) * 2 * half + column) * rank + low[:, None]
        up_mask = (low[:, None] < rank) & (first_head + 0 * low[:, None] < num_heads)
        up_first = tl.load(up + up_offset, mask=up_mask, other=0.0)
        up_second = tl.load(up + half * rank + up_offset, mask=up_mask, other=0.0)
        first += tl.dot(reduced_part, up_first, input_precision="ieee")
        second += tl.dot(reduced_part, up_second, input_precision="ieee")
    return first, second


@triton.jit
def _inverse_rms(first, second, half: tl.constexpr, eps: tl.constexpr):
    return tl.rsqrt(tl.sum(first * first + second * second, 1, keep_dims=True) / (2 * half) + eps)


@triton.jit
def _forward_kernel(
    output, reduced, up, norm_q, norm_k, cos, sin, query, key, value,
    num_tokens, first_token, seq_len, rotary_stride, rank,
    num_heads: tl.constexpr, block_tokens: tl.constexpr, block_heads: tl.constexpr, loop_heads: tl.constexpr,
    block_rank: tl.constexpr, half: tl.constexpr, eps: tl.constexpr, with_values: tl.constexpr,
):  # fmt: skip
    """x / rms(x) * weight, rotated, for queries and keys; values as they are."""
    batch = tl.program_id(2).to(tl.int64)
    row = tl.arange(0, block_tokens * block_heads)[:, None]
    channel = tl.arange(0, half)[None, :]
    token = tl.program_id(0) * block_tokens + row // block_heads
    rotary = (batch * rotary_stride + first_token + token) * half + channel
    c, s = _load(cos, rotary, token < num_tokens), _load(sin, rotary, token < num_tokens)
    for start in range(0, loop_heads, block_heads):
        first_head = tl.program_id(1) * loop_heads + start
        head = first_head + row % block_heads
        mask = (token < num_tokens) & (head < num_heads)
        target = ((batch * seq_len + first_token + token) * num_heads + head) * 2 * half + channel
        for part in tl.static_range(3):
            if part < 2:
                weight = norm_q if part == 0 else norm_k
                heads = query if part == 0 else key
                first, second = _load_sum(
                    output, reduced, up, part, token, head, mask, first_head, num_tokens, rank,
                    num_heads, block_rank, half,
                )  # fmt: skip
                scale = _inverse_rms(first, second, half, eps)
                first = first * scale * tl.load(weight + channel).to(tl.float32)
                second = second * scale * tl.load(weight + half + channel).to(tl.float32)
                tl.store(heads + target, first * c - second * s, mask=mask)
                tl.store(heads + target + half, second * c + first * s, mask=mask)
            elif with_values:
                first, second = _load_sum(
                    output, reduced, up, part, token, head, mask, first_head, num_tokens, rank,
                    num_heads, block_rank, half,
                )  # fmt: skip
                tl.store(value + target, first, mask=mask)
                tl.store(value + target + half, second, mask=mask)


@triton.jit
def _backward_kernel(
    output, reduced, up, norm_q, norm_k, cos, sin, grad_query, grad_key, grad_value, grad_output,
    num_tokens, first_token, seq_len, rotary_stride, rank,
    num_heads: tl.constexpr, block_tokens: tl.constexpr, block_heads: tl.constexpr, loop_heads: tl.constexpr,
    block_rank: tl.constexpr, half: tl.constexpr, eps: tl.constexpr,
):  # fmt: skip
    """With n = 1 / rms(x) and g = weight * (gradient rotated back): n g - n^3 x mean(g x)."""
    batch = tl.program_id(2).to(tl.int64)
    row = tl.arange(0, block_tokens * block_heads)[:, None]
    channel = tl.arange(0, half)[None, :]
    token = tl.program_id(0) * block_tokens + row // block_heads
    rotary = (batch * rotary_stride + first_token + token) * half + channel
    c, s = _load(cos, rotary, token < num_tokens), _load(sin, rotary, token < num_tokens)
    dim: tl.constexpr = num_heads * 2 * half
    for start in range(0, loop_heads, block_heads):
        first_head = tl.program_id(1) * loop_heads + start
        head = first_head + row % block_heads
        mask = (token < num_tokens) & (head < num_heads)
        source = ((batch * seq_len + first_token + token) * num_heads + head) * 2 * half + channel
        target = (batch * num_tokens + token) * 3 * dim + head * 2 * half + channel
        for part in tl.static_range(2):
            weight = norm_q if part == 0 else norm_k
            gradient = grad_query if part == 0 else grad_key
            first, second = _load_sum(
                output, reduced, up, part, token, head, mask, first_head, num_tokens, rank,
                num_heads, block_rank, half,
            )  # fmt: skip
            scale = _inverse_rms(first, second, half, eps)
            grad_first, grad_second = _load(gradient, source, mask), _load(gradient, source + half, mask)
            g_first = tl.load(weight + channel).to(tl.float32) * (grad_first * c + grad_second * s)
            g_second = tl.load(weight + half + channel).to(tl.float32) * (grad_second * c - grad_first * s)
            mean = tl.sum(g_first * first + g_second * second, 1, keep_dims=True) / (2 * half)
            along = scale * scale * scale * mean
            tl.store(grad_output + target + part * dim, scale * g_first - along * first, mask=mask)
            tl.store(grad_output + target + part * dim + half, scale * g_second - along * second, mask=mask)
        tl.store(grad_output + target + 2 * dim, _load(grad_value, source, mask), mask=mask)
        tl.store(grad_output + target + 2 * dim + half, _load(grad_value, source + half, mask), mask=mask)
