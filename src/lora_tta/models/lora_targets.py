"""The transformer's layers for LoRA adapters: their names, and the adapted ones.

PEFT matches a name against the end of a layer's path, so one name selects a layer in every block that has it:
``to_q`` in the double-stream blocks (video stream) and in the single-stream blocks, ``add_q_proj`` in the
text
stream of the double-stream blocks. Any subset of these names is a valid ``LoraConfig(target_modules=...)``.
"""

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
