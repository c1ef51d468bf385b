"""Layouts of the Q, K, V kernels with adapters: how many tokens, heads and warps a program should have.

Compares results with the plain version first. Run from the repository root, on a GPU:

    python benchmarks/qkv_layouts.py
"""

import itertools
import statistics

import torch
from random_model import time_once

from lora_tta.models import transformer
from lora_tta.models.fused_linears import Projected
from lora_tta.models.speed import qkv_kernel
from lora_tta.models.speed.qkv_kernel import Layout

NUM_HEADS, HEAD_DIM, RANK = 24, 128, 16
# Tokens of text and video together at 192x336: three branches, one, and a LoRA step.
SHAPES = [(3, 4796), (1, 4796), (1, 2780)]
LAYOUTS = [Layout(*sizes) for sizes in itertools.product((32, 64), (1, 4), (4, 8))]
CALLS = 10
DEVICE = torch.device("cuda")


def random_inputs(batch: int, seq_len: int) -> tuple:
    """A stream with adapters, weights of the normalisation, and rotary embedding."""
    width = 3 * NUM_HEADS * HEAD_DIM

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16).requires_grad_()

    stream = Projected(normal(batch, seq_len, width), normal(batch, seq_len, 3 * RANK), normal(width, RANK))
    norms = [normal(HEAD_DIM).detach() for _ in range(2)]
    angles = torch.randn(1, seq_len, 1, HEAD_DIM // 2, device=DEVICE)
    return [stream], norms, (angles.cos(), angles.sin())


def microseconds(inputs: tuple) -> tuple[float, float]:
    """Of a forward pass, and of a backward pass with nothing but the kernel in it; medians of 5."""
    streams, norms, rotary_emb = inputs
    outputs, reduced, ups = ([part.detach()] for part in streams[0])
    gradients = qkv_kernel.qkv_heads(*inputs)
    gradients = [gradient.detach() for gradient in gradients]

    def forward() -> None:
        for _ in range(CALLS):
            qkv_kernel._qkv_heads(outputs, reduced, ups, norms, *rotary_emb, True)

    def backward() -> None:
        for _ in range(CALLS):
            qkv_kernel._qkv_heads_backward(gradients, outputs, reduced, ups, norms, *rotary_emb)

    forward(), backward()
    return tuple(
        statistics.median(time_once(work, DEVICE) for _ in range(5)) / CALLS * 1e6
        for work in (forward, backward)
    )


def main() -> None:
    """Print a line for each layout, forward/backward."""
    inputs = [random_inputs(*shape) for shape in SHAPES]
    torch.testing.assert_close(
        qkv_kernel.qkv_heads(*inputs[-1]), transformer.qkv_heads(*inputs[-1]), atol=0.1, rtol=0.05
    )
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; rank {RANK}; us forward/backward")
    print(f"{'tokens, heads, warps':<24}" + "".join(f"{f'{b} x {s}':>16}" for b, s in SHAPES))
    for layout in LAYOUTS:
        qkv_kernel.FORWARD_LAYOUT = qkv_kernel.BACKWARD_LAYOUT = layout
        times = [microseconds(one) for one in inputs]
        cells = "".join(f"{f'{forward:.0f}/{backward:.0f}':>16}" for forward, backward in times)
        print(f"{', '.join(map(str, layout)):<24}{cells}", flush=True)


if __name__ == "__main__":
    main()
