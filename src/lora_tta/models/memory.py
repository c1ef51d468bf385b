"""How much memory a model needs and a device has, known before anything is loaded."""

import math
from collections.abc import Iterable
from pathlib import Path

import psutil
import torch

from lora_tta.errors import UserError
from lora_tta.models.transformer import OpenSoraTransformer3DModel
from lora_tta.models.weight_files import shapes_in

GIB = 2**30
# Values that a block keeps for each token, as multiples of the model's width: counted without compilation, in
# bfloat16, in which the float32 values of the rotary embedding weigh double (tests/models/test_memory.py).
KEPT_WIDTHS = 16
KEPT_WIDTHS_FOR_MLP_ADAPTERS = 5


def count_parameters(weight_files: Iterable[Path]) -> int:
    """Number of parameters in safetensors files, from their headers alone.

    Raises:
        UserError: a file is damaged.
    """
    total = 0
    for path in weight_files:
        total += sum(math.prod(shape) for shape in shapes_in(path).values())
    return total


def available_memory(device: torch.device | str) -> int:
    """Bytes that can still be allocated on a CPU or CUDA device."""
    device = torch.device(device)
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return psutil.virtual_memory().available


def activation_bytes(transformer: OpenSoraTransformer3DModel, num_tokens: int, mlp_adapters: bool) -> int:
    """Bytes that a training step without recomputation keeps between its forward and its backward pass.

    Args:
        transformer: in the dtype of the training.
        num_tokens: video and text tokens of the batch together.
        mlp_adapters: whether the MLP layers have adapters, whose inputs are kept too.
    """
    config = transformer.config
    num_blocks = config.num_layers + config.num_single_layers
    width = config.num_attention_heads * config.attention_head_dim
    widths_per_token = KEPT_WIDTHS + (KEPT_WIDTHS_FOR_MLP_ADAPTERS if mlp_adapters else 0)
    # `transformer.dtype` walks through all modules, while the GPU waits.
    dtype = transformer.proj_out.weight.dtype
    return num_blocks * num_tokens * width * widths_per_token * dtype.itemsize


def require_memory(num_parameters: int, dtype: torch.dtype, device: torch.device | str, what: str) -> None:
    """Check that the parameters of a model fit on a device.

    Raises:
        UserError: with the memory needed and available, and what to do.
    """
    needed, available = num_parameters * dtype.itemsize, available_memory(device)
    if needed <= available:
        return
    device, name = torch.device(device), str(dtype).removeprefix("torch.")
    remedy = "use a GPU with enough memory or a smaller model"
    if dtype.itemsize > torch.bfloat16.itemsize:
        remedy = f"load it in bfloat16, or {remedy}"
    raise UserError(
        f"{what} needs {needed / GIB:.1f} GiB for {num_parameters / 1e9:.2f} B parameters in {name}, but "
        f"{device} has {available / GIB:.1f} GiB available: {remedy}"
    )
