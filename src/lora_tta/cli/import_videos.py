"""``lora-tta import``: bring a data set into the data folder."""

import argparse
import subprocess
from pathlib import Path
from typing import Any

from lora_tta.config import load_params
from lora_tta.errors import UserError

DESCRIPTION = (
    "SOURCE is UCF-101, or any folder of videos with or without captions in it, or the videos that a table "
    "lists, given as --captions. docs/videos.md has the details."
)


def add_to(commands: Any) -> None:
    """Declare the command; it had another name when it knew UCF-101 alone."""
    parser = commands.add_parser(
        "import",
        aliases=["import-ucf101"],
        help="bring a data set into the data folder",
        description=DESCRIPTION,
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder or archive")
    parser.add_argument("--captions", type=Path, help="CSV of path and caption, or of Panda-70M")
    parser.add_argument("--lists", type=Path, help="folder of UCF-101's official train/test lists")
    parser.add_argument("--replace", action="store_true", help="remove the clips that are there")
    parser.add_argument("--skip-missing", action="store_true", help="take what is there of a table of paths")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Import the clips and have DVC track them.

    Raises:
        UserError: the data folder is outside of the repository; or as the functions that import.
    """
    from lora_tta.data.ucf101 import find_videos, is_ucf101_name

    root = load_params().data.root
    if not root.resolve().is_relative_to(Path.cwd().resolve()):
        raise UserError(
            f"data.root {root} is outside of the repository, where DVC can add nothing: change it"
        )
    source: Path = arguments.source
    is_archive = source.is_file()
    if arguments.captions is None and (
        arguments.lists is not None
        or is_archive
        or not source.exists()
        or any(is_ucf101_name(video.path) for video in find_videos(source))
    ):
        _import_ucf101(arguments, root)
    else:
        _import_collection(arguments, root)
    subprocess.run(["dvc", "add", str(root)], check=True)


def _import_ucf101(arguments: argparse.Namespace, root: Path) -> None:
    from lora_tta.data.ucf101_import import import_ucf101

    counts = import_ucf101(arguments.source, root, lists=arguments.lists, replace=arguments.replace)
    print(
        f"{root}: {counts.imported} clips imported, {counts.already_there} were there, "
        f"{counts.removed} removed; {counts.classes} classes, {counts.lists} lists"
    )


def _import_collection(arguments: argparse.Namespace, root: Path) -> None:
    from lora_tta.data.listed_import import import_collection

    if arguments.lists is not None:
        raise UserError("--lists is for UCF-101, and --captions for other collections: give one of them")
    counts = import_collection(
        arguments.source, root, arguments.captions, arguments.replace, arguments.skip_missing
    )
    left_out = [f"{counts.not_there} listed but missing"] if counts.not_there else []
    left_out += [counts.unusable] if counts.unusable else []
    print(
        f"{root}: {counts.brought.imported} videos imported, {counts.brought.already_there} were there, "
        f"{counts.brought.removed} removed; {'; '.join([f'{counts.captions} captions', *left_out])}"
    )
