"""The models that can be adapted, one module each; the names are in ``config.BACKBONES``."""

import json
import math
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lora_tta.config import BACKBONES, ModelParams

if TYPE_CHECKING:
    import torch

    from lora_tta.backbones.base import Backbone

# Video diffusion models that people publish results of are larger.
SMALL = 500_000_000


def backbone_module(name: str) -> str:
    """The module of a model."""
    return f"{__name__}.{name}"


def load_backbone(params: ModelParams, device: "torch.device", for_encoding: bool = False) -> "Backbone":
    """Load the model that the settings name.

    Args:
        params: kind, folder and precision of the model.
        device: where it goes.
        for_encoding: whether captions are to be encoded.

    Raises:
        UserError: files of the model are missing, or it does not fit into memory.
    """
    return import_module(backbone_module(params.backbone)).load(params, device, for_encoding)


def model_notice(params: ModelParams) -> str | None:
    """A sentence that must be read with every number of a small stand-in model; None for a full-size one."""
    num_parameters = sum(map(_num_parameters, params.path.rglob("*.safetensors")))
    if num_parameters >= SMALL:
        return None
    return (
        f"These numbers come from a small model of {num_parameters / 1e6:.1f} million parameters. They say "
        f"nothing about {BACKBONES[params.backbone]}."
    )


def _num_parameters(path: Path) -> int:
    """Values in a safetensors file, from its header (https://github.com/huggingface/safetensors#format)."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
