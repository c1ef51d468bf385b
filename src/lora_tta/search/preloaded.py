"""Everything that a worker of a study needs, imported without garbage collection."""

from lora_tta.imports import without_garbage_collection

with without_garbage_collection():
    from lora_tta.search.worker import run_worker

__all__ = ["run_worker"]
