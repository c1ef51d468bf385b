"""The files of a saved adapter in PEFT's format."""

import shutil
from pathlib import Path

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"


def export_adapter(folder: Path, target: Path) -> None:
    """Copy a saved adapter, and nothing else its folder holds."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        shutil.copyfile(folder / name, target / name)
