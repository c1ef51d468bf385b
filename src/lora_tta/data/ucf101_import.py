"""Bring the real UCF-101 into the data folder, from its extracted folder or its archive."""

from dataclasses import dataclass
from pathlib import Path

from lora_tta.data.importing import as_folder, bring_in, link_or_copy
from lora_tta.data.ucf101 import class_of, find_videos, is_ucf101_name
from lora_tta.errors import UserError

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
    """Copy UCF-101 to ``root/<Class>/<clip>.avi``; see :func:`~lora_tta.data.importing.bring_in`.

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
    with as_folder(source, root, "the UCF-101 folder or archive") as folder:
        targets = _targets(folder, root, source)
        brought = bring_in(targets, root, replace)
    for path in list_files:
        link_or_copy(path, root / LISTS_FOLDER / path.name)
    return ImportCounts(
        imported=brought.imported,
        already_there=brought.already_there,
        removed=brought.removed,
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
