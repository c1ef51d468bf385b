"""LoRA test-time adaptation of video continuation models, as an experiment platform."""

from importlib import import_module
from typing import Any

_MODELS = ("OpenSoraContinuationPipeline", "OpenSoraTransformer3DModel")


def __getattr__(name: str) -> Any:
    """Import the model classes on first use, so that importing the package stays cheap."""
    if name in _MODELS:
        return getattr(import_module("lora_tta.models"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
