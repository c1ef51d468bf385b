"""LoRA test-time adaptation of video continuation models, as an experiment platform.

The public names; each is imported on first use, so that importing the package stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_tta.config import load_params
    from lora_tta.errors import UserError
    from lora_tta.experiment.own_video import ContinuedVideo, continue_video
    from lora_tta.models import OpenSoraContinuationPipeline, OpenSoraTransformer3DModel

_MODULES = {
    "ContinuedVideo": "lora_tta.experiment.own_video",
    "OpenSoraContinuationPipeline": "lora_tta.models",
    "OpenSoraTransformer3DModel": "lora_tta.models",
    "UserError": "lora_tta.errors",
    "continue_video": "lora_tta.experiment.own_video",
    "load_params": "lora_tta.config",
}
__all__ = [
    "ContinuedVideo",
    "OpenSoraContinuationPipeline",
    "OpenSoraTransformer3DModel",
    "UserError",
    "continue_video",
    "load_params",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
