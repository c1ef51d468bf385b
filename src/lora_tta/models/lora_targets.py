"""The transformer's layers for LoRA adapters: their names, and the adapted ones.

PEFT matches a name against the end of a layer's path, so one name selects a layer in every block that has it:
``to_q`` in the double-stream blocks (video stream) and in the single-stream blocks, ``add_q_proj`` in the
text
stream of the double-stream blocks. Any subset of these names is a valid ``LoraConfig(target_modules=...)``.
"""

import re
from collections.abc import Sequence

from peft.tuners.lora import LoraLayer
from torch import nn

ATTENTION_LAYERS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
)
MLP_LAYERS = (
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.0.proj",
    "ff_context.net.2",
    "proj_mlp",
    "proj_mlp_out",
)


QK_NORMS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")


def layer_paths(
    transformer: nn.Module, names: Sequence[str], last_blocks: int | None, pattern: str | None
) -> list[str]:
    """Whole paths of layers that end in one of the names.

    Args:
        transformer: its blocks count as one sequence, those of two streams first.
        names: of :func:`lora_target_modules`.
        last_blocks: the layers of so many blocks at the end alone; None takes all.
        pattern: a regular expression that matches some part of the paths; None takes any.
    """
    blocks = [
        f"{kind}.{index}."
        for kind in ("transformer_blocks", "single_transformer_blocks")
        for index in range(len(getattr(transformer, kind)))
    ]
    chosen = tuple(blocks if last_blocks is None else blocks[-last_blocks:])
    ends = tuple(f".{name}" for name in names)
    return [
        path
        for path, _ in transformer.named_modules()
        if path.startswith(chosen) and path.endswith(ends) and (pattern is None or re.search(pattern, path))
    ]


def lora_target_modules(attention: bool = True, mlp: bool = False) -> list[str]:
    """Names for ``LoraConfig(target_modules=...)``.

    Args:
        attention: the Q, K, V and output projections of both block kinds.
        mlp: the two MLP layers of both block kinds.

    Raises:
        ValueError: if neither is chosen.
    """
    if not (attention or mlp):
        raise ValueError("choose attention or mlp layers, or both")
    return [*(ATTENTION_LAYERS if attention else ()), *(MLP_LAYERS if mlp else ())]


def adapter_layers(transformer: nn.Module) -> list[LoraLayer]:
    """The layers that have an adapter, in a fixed order."""
    return [module for module in transformer.modules() if isinstance(module, LoraLayer)]
