"""The kernel gives the plain version's heads and gradients: on a GPU, else in Triton's interpreter."""

import importlib
import os
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from lora_adapters import lora
from tiny_model import TEXT_WIDTH, tiny_transformer
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from lora_tta.models.fused_linears import Projected
from lora_tta.models.speed.acceleration import compile_blocks, mark_rank_dynamic
from lora_tta.models.transformer import RotaryEmbedding, qkv_heads

BATCH, NUM_HEADS, HEAD_DIM = 2, 5, 16
# Tokens of video, or of text and video, and the adapters' rank; 67 tokens are more than a program takes.
CASES = [([5], None), ([3, 4], None), ([5], 20), ([3, 67], 3)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


in_interpreter = os.environ.get("TRITON_INTERPRET") == "1"
runs_kernels = pytest.mark.gpu(or_interpreter=True)  # the last test runs the others in Triton's interpreter


@pytest.fixture
def kernel() -> ModuleType:
    return importlib.import_module("lora_tta.models.speed.qkv_kernel")


def random_inputs(
    lengths: list[int], rank: int | None = None, rotary_batch: int = 1
) -> tuple[list[Projected], list[Tensor], RotaryEmbedding]:
    torch.manual_seed(0)
    width = 3 * NUM_HEADS * HEAD_DIM

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=DEVICE).requires_grad_()

    streams = [
        Projected(
            normal(BATCH, length, width),
            None if rank is None else normal(BATCH, length, 3 * rank),
            None if rank is None else normal(width, rank),
        )
        for length in lengths
    ]
    norms = [torch.rand(HEAD_DIM, device=DEVICE) + 0.5 for _ in range(2 * len(lengths))]
    angles = torch.randn(rotary_batch, sum(lengths), 1, HEAD_DIM // 2, device=DEVICE)
    return streams, norms, (angles.cos(), angles.sin())


def assert_same_gradients(
    results: tuple[Tensor, ...], expected: tuple[Tensor, ...], streams: list[Projected]
) -> None:
    parts = [part for stream in streams for part in stream if part is not None]
    # Not contiguous, as an attention kernel may return them.
    gradients = [torch.randn_like(result).transpose(1, 2).contiguous().transpose(1, 2) for result in results]
    for one, other in zip(
        torch.autograd.grad(results, parts, gradients),
        torch.autograd.grad(expected, parts, gradients),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@runs_kernels
@pytest.mark.parametrize(("lengths", "rank"), CASES)
def test_heads_and_gradients(kernel, lengths, rank):
    inputs = random_inputs(lengths, rank, rotary_batch=BATCH)
    results, expected = kernel.qkv_heads(*inputs), qkv_heads(*inputs)
    torch.testing.assert_close(results, expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(results, expected, inputs[0])


@runs_kernels
@pytest.mark.parametrize(("lengths", "rank"), CASES[-2:])
@torch.no_grad()
def test_heads_without_gradients(kernel, lengths, rank):
    inputs = random_inputs(lengths, rank)
    torch.testing.assert_close(kernel.qkv_heads(*inputs), qkv_heads(*inputs), atol=1e-5, rtol=1e-5)


@runs_kernels
def test_one_stream_with_adapters_and_one_without(kernel):
    (text, video), *others = random_inputs([3, 4], rank=3)
    streams = [Projected(text.output), video]
    results, expected = kernel.qkv_heads(streams, *others), qkv_heads(streams, *others)
    torch.testing.assert_close(results, expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(results, expected, streams)


@runs_kernels
def test_projections_may_be_parts_of_other_tensors(kernel):
    (video,), *others = random_inputs([6])
    wide = torch.cat((video.output, video.output), dim=-1).detach()
    streams = [Projected(wide[..., : video.output.shape[-1]].requires_grad_())]
    results, expected = kernel.qkv_heads(streams, *others), qkv_heads(streams, *others)
    torch.testing.assert_close(results, expected)
    assert_same_gradients(results, expected, streams)


@runs_kernels
@pytest.mark.usefixtures("_fresh_compiler")
def test_a_compiled_model_predicts_and_learns_the_same_for_every_rank(kernel):
    transformer = tiny_transformer().to(DEVICE)
    shapes = {
        "hidden_states": (1, 4, 64),
        "encoder_hidden_states": (1, 2, TEXT_WIDTH),
        "condition": (1, 4, 68),
        "pooled_projections": (1, TEXT_WIDTH),
    }
    inputs = {name: torch.randn(shape, device=DEVICE) for name, shape in shapes.items()} | {
        "img_ids": torch.arange(12, device=DEVICE).reshape(4, 3) % 5,
        "txt_ids": torch.zeros(2, 3, device=DEVICE),
        "timestep": torch.full((1,), 0.3, device=DEVICE),
    }

    def prediction_and_gradients(rank: int) -> tuple[Tensor, ...]:
        weights = lora(transformer, rank).attach(seed=0)
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in weights:
                weight.add_(torch.randn_like(weight) / 10)
        mark_rank_dynamic(transformer)
        sample = transformer(**inputs).sample
        return sample, *torch.autograd.grad(sample.square().mean(), weights)

    expected = {rank: prediction_and_gradients(rank) for rank in (4, 8)}
    counter = CompileCounterWithBackend("aot_eager")
    transformer.fuse_projections()
    transformer.compute_by(qkv_heads=kernel.qkv_heads)
    compile_blocks(transformer, backend=counter)
    for rank in (4, 8):
        for result, other in zip(prediction_and_gradients(rank), expected[rank], strict=True):
            torch.testing.assert_close(result, other, atol=1e-4, rtol=1e-3)
    assert counter.frame_count == 2


@pytest.mark.slow(40)
@pytest.mark.skipif(DEVICE == "cuda" or in_interpreter, reason="the tests above have run the kernels")
def test_in_the_interpreter():
    pytest.importorskip("triton")
    # A process of its own, since Triton looks at the variable when it is imported.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout
