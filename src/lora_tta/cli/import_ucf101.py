"""``lora-tta import-ucf101``: bring UCF-101 into the data folder."""

import argparse
import subprocess
from pathlib import Path
from typing import Any

from lora_tta.config import load_params
from lora_tta.errors import UserError


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("import-ucf101", help="bring UCF-101 into the data folder")
    parser.add_argument("source", type=Path, help="extracted folder or archive")
    parser.add_argument("--lists", type=Path, help="folder of the official train/test lists")
    parser.add_argument("--replace", action="store_true", help="remove the clips that are there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Import the clips and have DVC track them.

    Raises:
        UserError: the data folder is outside of the repository; or as :func:`import_ucf101`.
    """
    from lora_tta.data.ucf101_import import import_ucf101

    root = load_params().data.root
    if not root.resolve().is_relative_to(Path.cwd().resolve()):
        raise UserError(
            f"data.root {root} is outside of the repository, where DVC can add nothing: change it"
        )
    counts = import_ucf101(arguments.source, root, lists=arguments.lists, replace=arguments.replace)
    print(
        f"{root}: {counts.imported} clips imported, {counts.already_there} were there, "
        f"{counts.removed} removed; {counts.classes} classes, {counts.lists} lists"
    )
    subprocess.run(["dvc", "add", str(root)], check=True)
