"""The model of an experiment: loaded when it is first needed, identified without loading it."""

from functools import cached_property

import torch

from lora_tta.cache.keys import code_version, folder_sha256
from lora_tta.config import ModelParams
from lora_tta.models.loading import load_pipeline
from lora_tta.models.pipeline import OpenSoraContinuationPipeline
from lora_tta.models.speed.acceleration import accelerate


class LazyModel:
    """A pipeline that is loaded at first use, so that work found in the cache needs no model.

    Args:
        params: of the model; its number of threads becomes that of this process.
        device_index: which of several GPUs, modulo their number.
        text_encoders: whether they are needed, see :func:`load_pipeline`.
    """

    def __init__(self, params: ModelParams, device_index: int = 0, text_encoders: bool = False):
        self.params = params
        self.text_encoders = text_encoders
        self.device = resolve_device(params.device, device_index)
        torch.set_num_threads(params.num_threads)

    @cached_property
    def pipeline(self) -> OpenSoraContinuationPipeline:
        """The model on its device."""
        dtype = getattr(torch, self.params.dtype)
        pipeline = load_pipeline(self.params.path, self.device, dtype, text_encoders=self.text_encoders)
        if self.params.accelerate and self.device.type == "cuda":
            accelerate(pipeline.transformer)
        # One bar for the clips is enough.
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @cached_property
    def environment(self) -> dict:
        """All that a result depends on besides a clip and the settings of the work on it."""
        return {
            "model": folder_sha256(self.params.path),
            "code": code_version(),
            "device": self.device.type,
            "dtype": self.params.dtype,
            "num_threads": self.params.num_threads,
            "accelerate": self.params.accelerate,
        }


def resolve_device(name: str, index: int = 0) -> torch.device:
    """``auto`` is CUDA where there is a GPU, else the CPU; ``index`` picks one of several GPUs."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name, index % torch.cuda.device_count()) if name == "cuda" else torch.device(name)
