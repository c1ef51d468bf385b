"""LoRA by the project's own method in a transformer that has no pipeline around it."""

from pathlib import Path
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler

from lora_tta.adaptation.methods import MethodSlot
from lora_tta.adaptation.methods.base import AdaptationMethod
from lora_tta.backbones.opensora import OpenSoraBackbone
from lora_tta.config import load_params
from lora_tta.models import OpenSoraContinuationPipeline, OpenSoraTransformer3DModel

PARAMS = Path(__file__).parents[2] / "params.yaml"


def lora(transformer: OpenSoraTransformer3DModel, rank: int, **settings: Any) -> AdaptationMethod:
    """The method with the repository's settings, apart from those given; nothing is attached yet."""
    adaptation = load_params(PARAMS).adaptation.at({"rank": rank, **settings})
    return slot(transformer).put(adaptation.method)


def slot(transformer: OpenSoraTransformer3DModel) -> MethodSlot:
    """Where a method goes."""
    pipeline = OpenSoraContinuationPipeline(transformer, None, FlowMatchEulerDiscreteScheduler())
    return MethodSlot(OpenSoraBackbone(pipeline))
