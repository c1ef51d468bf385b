"""The preprocessed clip and its manifest, which every later stage reads instead of the raw videos."""

import csv
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lora_tta.errors import UserError
from lora_tta.files import atomic

MANIFEST_NAME = "manifest.csv"

Split = Literal["search", "test"]


@dataclass(frozen=True)
class Cut:
    """An H.264 clip and where it was cut from. A model sees its first ``conditioning_frames`` and no others.

    ``window_start`` and ``window_end`` (exclusive) count frames of the source *after* its resampling to
    ``fps``, so the window begins ``window_start / fps`` seconds into the source. ``source_frames`` and
    ``source_fps`` describe the source itself. ``source`` is a POSIX path relative to the data root.
    Sizes are in pixels; ``sha256`` is the hash of the written file, ``frames_sha256`` that of the frames
    before their encoding.
    """

    clip_id: str
    class_name: str
    caption: str
    source: str
    source_frames: int
    source_fps: float
    window_start: int
    window_end: int
    conditioning_frames: int
    fps: int
    height: int
    width: int
    sha256: str
    frames_sha256: str

    @property
    def num_frames(self) -> int:
        """Frames of the clip."""
        return self.window_end - self.window_start

    @property
    def file_name(self) -> str:
        """Name of the clip's file in the folder of its manifest."""
        return f"{self.clip_id}.mp4"


@dataclass(frozen=True)
class Clip(Cut):
    """One row of ``manifest.csv``: a cut, and whether it is for the search or for the test.

    Clips that show the same footage have the same ``group``, and all clips of a group the same ``split``.
    """

    group: str
    split: Split


def write_manifest(folder: Path, clips: list[Clip]) -> None:
    """Write ``folder/manifest.csv`` atomically, the search's clips first, classes interleaved in each split.

    The order does not depend on the order of ``clips``: in a split, first every class's first clip by id,
    then every class's second, and so on, so that its first k rows are spread over as many classes as they
    can be.
    """
    with (
        atomic(folder / MANIFEST_NAME) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, [field.name for field in fields(Clip)], lineterminator="\n")
        writer.writeheader()
        for split in get_args(Split):
            members = [clip for clip in clips if clip.split == split]
            writer.writerows(asdict(clip) for clip in _interleave_classes(members))


def read_manifest(folder: Path, split: Split | None = None) -> list[Clip]:
    """Read ``folder/manifest.csv`` in its order.

    Args:
        folder: of the clips.
        split: of the clips to return, which may be none; ``None`` returns those of both.

    Raises:
        UserError: there is no manifest, it is not one this version writes, or it was cut short or changed.
    """
    path = folder / MANIFEST_NAME
    types = get_type_hints(Clip)
    columns = {field.name: types[field.name] for field in fields(Clip)}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames != list(columns):
                raise UserError(f"{path}: the columns are not {', '.join(columns)}; run preprocess again")
            clips = [Clip(**{name: _parsed(columns[name], row[name]) for name in row}) for row in rows]
    except FileNotFoundError:
        raise UserError(f"{path} not found: run preprocess first") from None
    except (TypeError, ValueError, KeyError, csv.Error) as error:
        raise _damaged(path, error) from None
    _check_files(path, clips)
    return [clip for clip in clips if split in (None, clip.split)]


def _check_files(path: Path, clips: list[Clip]) -> None:
    """Refuse a manifest whose clips are not those of its folder; reading a missing file tells of it."""
    names = {clip.file_name for clip in clips}
    if outside := sorted(name for name in names if Path(name).name != name):
        raise _damaged(path, f"{outside[0]} lies outside of its folder")
    if len(names) < len(clips):
        raise _damaged(path, "two rows have the same clip_id")
    if left := {file.name for file in path.parent.glob("*.mp4") if not file.name.startswith(".")} - names:
        raise _damaged(path, f"it lists {len(names)} clips, and not {min(left)}")


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"{path} is damaged ({reason}): run dvc checkout or preprocess again")


def _parsed(kind: Any, value: str) -> Any:
    """A cell as a value of the type of its column."""
    if get_origin(kind) is not Literal:
        return kind(value)
    if value not in get_args(kind):
        raise ValueError(f"{value!r} is none of {', '.join(get_args(kind))}")
    return value


def _interleave_classes(clips: list[Clip]) -> list[Clip]:
    classes: dict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.clip_id):
        classes[clip.class_name].append(clip)
    ranked = [(rank, name, clip) for name, members in classes.items() for rank, clip in enumerate(members)]
    return [clip for _, _, clip in sorted(ranked, key=lambda item: item[:2])]
