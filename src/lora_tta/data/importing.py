"""Bringing videos and their captions into the data folder, from a folder or an archive."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lora_tta.data.archives import unpack
from lora_tta.data.folder import VIDEO_SUFFIXES
from lora_tta.data.ucf101 import find_videos
from lora_tta.errors import UserError
from lora_tta.files import PARTIAL_PATTERN, atomic, write_text


@dataclass(frozen=True)
class Brought:
    """How many videos were imported, were there already, and were removed."""

    imported: int
    already_there: int
    removed: int


@contextmanager
def as_folder(source: Path, root: Path, wanted: str) -> Iterator[Path]:
    """``source`` itself, or a temporary folder beside ``root`` that its archive is unpacked into.

    Raises:
        UserError: it is neither, or cannot be unpacked; ``wanted`` says what to give.
    """
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise UserError(f"{source} not found: give {wanted}")
    with beside(root) as folder:
        print(f"unpacking {source} ...")
        unpack(source, folder)
        yield folder


@contextmanager
def beside(root: Path) -> Iterator[Path]:
    """A temporary folder on the file system of ``root``, whose files can be linked into it."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.absolute().parent, prefix=".import-") as name:
        yield Path(name)


def bring_in(
    targets: Mapping[Path, Path], root: Path, replace: bool, captions: Mapping[Path, str] | None = None
) -> Brought:
    """Copy videos into ``root``; hard links where both are on one file system.

    An interrupted import is taken up where it stopped. No video is there without its caption.

    Args:
        targets: where each video goes, below ``root``, and where it is now.
        root: the data folder, made if missing.
        replace: remove the videos in ``root`` that are no targets, with the captions beside them.
        captions: of targets, written beside them as ``.txt``.

    Raises:
        UserError: ``root`` holds other videos, and ``replace`` is false.
    """
    root.mkdir(parents=True, exist_ok=True)
    for left_by_interruption in root.rglob(PARTIAL_PATTERN):
        left_by_interruption.unlink()
    others = [path for path in _named_as_videos(root) if not _same_size(path, targets)]
    if others and not replace:
        raise UserError(
            f"{root} already holds {len(others)} other videos, such as {others[0]}: "
            "empty it, or give --replace to remove them"
        )
    for path in others:
        path.unlink()
        path.with_suffix(".txt").unlink(missing_ok=True)
    missing = {target: path for target, path in targets.items() if not target.exists()}
    for target, caption in (captions or {}).items():
        write_text(target.with_suffix(".txt"), f"{caption}\n")
    for target, path in tqdm(missing.items(), desc="import", unit="clip"):
        link_or_copy(path, target)
    _remove_empty_folders(root)
    return Brought(len(missing), len(targets) - len(missing), len(others))


def link_or_copy(path: Path, target: Path) -> None:
    """Make ``target`` the file at ``path``, atomically."""
    with atomic(target) as partial:
        try:
            os.link(path.resolve(), partial)
        except OSError:
            shutil.copyfile(path, partial)


def _named_as_videos(root: Path) -> list[Path]:
    """What may be removed: a file that only might be a video is left alone."""
    return [source.path for source in find_videos(root) if source.path.suffix.lower() in VIDEO_SUFFIXES]


def _same_size(path: Path, targets: Mapping[Path, Path]) -> bool:
    return path in targets and path.stat().st_size == targets[path].stat().st_size


def _remove_empty_folders(root: Path) -> None:
    for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
