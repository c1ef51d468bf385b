"""Everything that a process needs to run clips, imported as a server of forks should."""

from importlib import import_module

from lora_tta.imports import large_imports, without_first_use_of_cuda

with large_imports(), without_first_use_of_cuda():
    from lora_tta.backbones import backbone_module
    from lora_tta.config import BACKBONES
    from lora_tta.experiment.runner import ClipRunner

    for _name in BACKBONES:
        import_module(backbone_module(_name))

__all__ = ["ClipRunner"]
