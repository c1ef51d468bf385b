"""Everything that a worker of a study needs, imported as a server of forks should."""

from lora_tta.imports import large_imports, without_first_use_of_cuda

with large_imports(), without_first_use_of_cuda():
    import lora_tta.experiment.preloaded  # noqa: F401
    from lora_tta.search.rounds import run_worker

__all__ = ["run_worker"]
