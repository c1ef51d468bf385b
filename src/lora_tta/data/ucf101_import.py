"""Bring the real UCF-101 into the data folder, from its extracted folder or its archive."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lora_tta.data.archives import unpack
from lora_tta.data.folder import VIDEO_SUFFIXES
from lora_tta.data.ucf101 import class_of, find_videos, is_ucf101_name
from lora_tta.errors import UserError
from lora_tta.files import PARTIAL_PATTERN, atomic

LISTS_FOLDER = "ucfTrainTestlist"


@dataclass(frozen=True)
class ImportCounts:
    """How many clips were imported, were there already, and were removed; classes and lists now there."""

    imported: int
    already_there: int
    removed: int
    classes: int
    lists: int


def import_ucf101(source: Path, root: Path, lists: Path | None = None, replace: bool = False) -> ImportCounts:
    """Copy UCF-101 to ``root/<Class>/<clip>.avi``; hard links where both are on one file system.

    An interrupted import is taken up where it stopped.

    Args:
        source: a folder that holds UCF-101 clips at any depth, or an archive of one (.zip, .tar.*, .rar).
        root: the data folder, made if missing.
        lists: folder of the official train/test lists, copied to ``root/ucfTrainTestlist``.
        replace: remove the videos in ``root`` that ``source`` does not hold.

    Raises:
        UserError: ``source`` holds no UCF-101 clips or cannot be unpacked; ``root`` holds other videos and
            ``replace`` is false; ``lists`` holds no lists.
    """
    list_files = sorted(lists.glob("*.txt")) if lists is not None else []
    if lists is not None and not list_files:
        raise UserError(f"{lists} holds no .txt lists: give the extracted ucfTrainTestlist folder")
    root.mkdir(parents=True, exist_ok=True)
    for left_by_interruption in root.rglob(PARTIAL_PATTERN):
        left_by_interruption.unlink()
    with _as_folder(source, root) as folder:
        targets = _targets(folder, root, source)
        others = [path for path in _named_as_videos(root) if not _same_size(path, targets)]
        if others and not replace:
            raise UserError(
                f"{root} already holds {len(others)} other videos, such as {others[0]}: "
                "empty it, or give --replace to remove them"
            )
        for path in others:
            path.unlink()
        missing = {target: path for target, path in targets.items() if not target.exists()}
        for target, path in tqdm(missing.items(), desc="import", unit="clip"):
            _link_or_copy(path, target)
    for path in list_files:
        _link_or_copy(path, root / LISTS_FOLDER / path.name)
    _remove_empty_folders(root)
    return ImportCounts(
        imported=len(missing),
        already_there=len(targets) - len(missing),
        removed=len(others),
        classes=len({target.parent for target in targets}),
        lists=len(list_files),
    )


def _targets(folder: Path, root: Path, source: Path) -> dict[Path, Path]:
    """Where each UCF-101 clip of ``folder`` goes: target path -> path now."""
    targets = {}
    for video in find_videos(folder):
        if is_ucf101_name(video.path):
            targets[root / class_of(video.path, folder) / video.path.name] = video.path
    if not targets:
        raise UserError(
            f"{source} holds no clips named v_<Class>_gXX_cYY: give the UCF-101 folder or archive"
        )
    return targets


def _named_as_videos(root: Path) -> list[Path]:
    """What may be removed: a file that only might be a video is left alone."""
    return [source.path for source in find_videos(root) if source.path.suffix.lower() in VIDEO_SUFFIXES]


def _same_size(path: Path, targets: dict[Path, Path]) -> bool:
    return path in targets and path.stat().st_size == targets[path].stat().st_size


@contextmanager
def _as_folder(source: Path, root: Path) -> Iterator[Path]:
    """``source`` itself, or a temporary folder beside ``root`` that its archive is unpacked into."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise UserError(f"{source} not found: give the UCF-101 folder or archive")
    with tempfile.TemporaryDirectory(dir=root.absolute().parent, prefix=".ucf101-") as name:
        print(f"unpacking {source} ...")
        unpack(source, Path(name))
        yield Path(name)


def _link_or_copy(path: Path, target: Path) -> None:
    with atomic(target) as partial:
        try:
            os.link(path.resolve(), partial)
        except OSError:
            shutil.copyfile(path, partial)


def _remove_empty_folders(root: Path) -> None:
    for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
