"""The files of a data folder that may be videos, and those that can not, with the reason."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from lora_tta.data.rejection import Reason, Rejection

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv",
    ".ts", ".vob", ".webm", ".wmv",
})
# A text under such a name is no video, but it promises one: it is listed.
_PROMISING_SUFFIXES = VIDEO_SUFFIXES | {
    ".asx", ".concat", ".ffconcat", ".m3u", ".m3u8", ".mpd", ".pls", ".sdp", ".smil", ".xspf",
}
# fmt: on
_TEXT_HEAD = 4096
_CONTROLS = frozenset(range(32)) - set(b"\t\n\r\f\x1b")


@dataclass(frozen=True)
class Listing:
    """Files that may be videos, sorted by path below the folder, and what was skipped."""

    files: list[Path] = field(default_factory=list)
    skipped: list[Rejection] = field(default_factory=list)


def list_files(root: Path) -> Listing:
    """Everything below ``root`` that may be a video.

    Hidden files and folders, and texts (lists, captions, notes) are left out. Links to folders are followed,
    but not into a folder that they lie in. What is neither a readable file nor a folder is skipped.
    """
    listing = Listing()
    _visit(root, root, frozenset(), listing)
    listing.files.sort(key=lambda path: path.relative_to(root).as_posix())
    listing.skipped.sort(key=lambda skipped: skipped.source)
    return listing


def printable(name: str) -> str:
    """A name or path as text that can be written, whatever bytes it holds."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path leads into a folder, as both are written; links are not looked up."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _visit(folder: Path, root: Path, above: frozenset[Path], listing: Listing) -> None:
    def skip(path: Path, detail: str) -> None:
        listing.skipped.append(
            Rejection(printable(path.relative_to(root).as_posix()), Reason.UNREADABLE, detail)
        )

    real = folder.resolve()
    if real in above:
        skip(folder, "the link leads to a folder that it lies in")
        return
    try:
        names = os.listdir(folder)
    except OSError as error:
        skip(folder, f"the folder cannot be read: {error.strerror}")
        return
    for name in names:
        path = folder / name
        if name.startswith("."):
            continue
        if path.is_dir():
            _visit(path, root, above | {real}, listing)
        elif not path.exists():
            skip(path, "the link leads nowhere")
        elif not path.is_file():
            skip(path, "it is neither a file nor a folder")
        else:
            try:
                if path.suffix.lower() in _PROMISING_SUFFIXES or not _is_text(path):
                    listing.files.append(path)
            except OSError as error:
                skip(path, f"it cannot be read: {error.strerror}")


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_TEXT_HEAD)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else the last character is cut
            return False
    return _CONTROLS.isdisjoint(head)
