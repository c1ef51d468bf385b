"""FlashAttention-4 against PyTorch's attention."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lora_tta.models.speed.acceleration import has_hopper_kernels

BATCH, LENGTH, HEADS, HEAD_DIM = 2, 300, 4, 64

hopper = pytest.mark.skipif(
    not (torch.cuda.is_available() and has_hopper_kernels("flash_attn.cute")),
    reason="FlashAttention-4 is an optional package for Hopper GPUs",
)


def random_heads(dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Queries, keys and values, the values a part of a wider tensor as in single-stream blocks."""
    query, key, wide = (
        torch.randn(BATCH, LENGTH, HEADS * width, HEAD_DIM, device="cuda").to(dtype) for width in (1, 1, 3)
    )
    return [query.requires_grad_(), key.requires_grad_(), wide.chunk(3, dim=2)[2].requires_grad_()]


def exact_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads = (part.double().transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(*heads).transpose(1, 2)


@pytest.mark.gpu
@hopper
@pytest.mark.parametrize("compiled", [False, True])
def test_attention_and_its_gradients_are_as_exact_as_bfloat16(compiled, relative_error):
    from lora_tta.models.speed.flash_attention import flash_attention

    function = torch.compile(flash_attention, fullgraph=True) if compiled else flash_attention
    heads = random_heads()
    expected = exact_attention(*heads)
    output = function(*heads)
    assert output.shape == expected.shape
    assert output.is_contiguous()
    assert relative_error(output, expected) < 4e-3
    gradient = torch.randn_like(output)
    expected_gradients = torch.autograd.grad(expected, heads, gradient.double())
    for result, exact in zip(torch.autograd.grad(output, heads, gradient), expected_gradients, strict=True):
        assert relative_error(result, exact) < 5e-3


@pytest.mark.gpu
@hopper
def test_float32_goes_to_pytorch(relative_error):
    from lora_tta.models.speed.flash_attention import flash_attention

    heads = random_heads(torch.float32)
    assert relative_error(flash_attention(*heads), exact_attention(*heads)) < 1e-5


@pytest.mark.gpu
@hopper
def test_operations_are_what_the_compiler_takes_them_for():
    from lora_tta.models.speed.flash_attention import _flash_attention

    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(_flash_attention, random_heads(), test_utils=checks)
