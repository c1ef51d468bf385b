"""``lora-tta import-ucf101``: bring UCF-101 into the data folder."""

import argparse
import subprocess
from pathlib import Path
from typing import Any

from lora_tta.config import load_params


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("import-ucf101", help="bring UCF-101 into the data folder")
    parser.add_argument("source", type=Path, help="extracted folder or archive")
    parser.add_argument("--lists", type=Path, help="folder of the official train/test lists")
    parser.add_argument("--replace", action="store_true", help="remove the clips that are there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Import the clips and have DVC track them."""
    from lora_tta.data.ucf101_import import import_ucf101

    root = load_params().data.root
    counts = import_ucf101(arguments.source, root, lists=arguments.lists, replace=arguments.replace)
    print(
        f"{root}: {counts.imported} clips imported, {counts.already_there} were there, "
        f"{counts.removed} removed; {counts.classes} classes, {counts.lists} lists"
    )
    subprocess.run(["dvc", "add", str(root)], check=True)
