"""The model of an experiment: loaded when it is first needed, identified without loading it."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lora_tta.backbones import load_backbone
from lora_tta.backbones.base import Backbone
from lora_tta.cache.model_identity import model_identity
from lora_tta.config import ModelParams
from lora_tta.errors import UserError

IDENTITIES_NAME = "models.json"


class LazyModel:
    """A model that is loaded at first use, so that work found in the cache needs none.

    Args:
        params: of the model; this process takes its number of threads.
        cache_folder: where the model's identity is remembered.
        for_encoding: whether captions are to be encoded.

    Raises:
        UserError: the settings ask for a GPU, and there is none.
    """

    def __init__(self, params: ModelParams, cache_folder: Path, for_encoding: bool = False):
        self.params = params
        self.for_encoding = for_encoding
        self.device = resolve_device(params.device)
        self._identities = cache_folder / IDENTITIES_NAME
        torch.set_num_threads(params.num_threads)
        if self.device.type == "cuda":
            # New streams and kernels go to the current device.
            torch.cuda.set_device(self.device)
            # For the whole process, since the model works while a thread beside it measures. With TF32, SSIM
            # would subtract large squares that differ in their last digits.
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.allow_tf32 = False

    @cached_property
    def backbone(self) -> Backbone:
        """The model on its device."""
        return load_backbone(self.params, self.device, self.for_encoding)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Everything that results depend on besides code, clip and the settings of the work on it."""
        return {
            "model": model_identity(self.params.path, self._identities),
            "backbone": self.params.backbone,
            "device": self.device_name,
            "dtype": self.params.dtype,
            "num_threads": self.params.num_threads,
            "accelerate": self.params.accelerate,
        }

    @property
    def device_name(self) -> str:
        """The product name of the GPU, or ``cpu``."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first GPU, where there is one, else the CPU.

    Raises:
        UserError: ``cuda`` is asked for, and there is no GPU.
    """
    if name != "cpu" and torch.cuda.device_count():
        return torch.device("cuda", 0)
    if name == "cuda":
        raise UserError("model.device is cuda, but torch finds no GPU: set model.device to auto or cpu")
    return torch.device("cpu")
