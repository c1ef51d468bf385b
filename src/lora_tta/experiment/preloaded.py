"""Everything that a process needs to run clips, imported without garbage collection."""

from lora_tta.imports import without_garbage_collection

with without_garbage_collection():
    from lora_tta.experiment.runner import ClipRunner

__all__ = ["ClipRunner"]
