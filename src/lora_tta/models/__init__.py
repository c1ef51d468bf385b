"""Open-Sora v2.0 as diffusers components: transformer, pipeline, conversion and loading."""

from lora_tta.models.loading import load_pipeline
from lora_tta.models.lora_targets import lora_target_modules
from lora_tta.models.pipeline import OpenSoraContinuationPipeline, OpenSoraPipelineOutput
from lora_tta.models.transformer import OpenSoraTransformer3DModel

__all__ = [
    "OpenSoraContinuationPipeline",
    "OpenSoraPipelineOutput",
    "OpenSoraTransformer3DModel",
    "load_pipeline",
    "lora_target_modules",
]
