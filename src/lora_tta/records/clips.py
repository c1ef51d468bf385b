"""The preprocessed clip and its manifest, which every later stage reads instead of the raw videos."""

import csv
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_type_hints

from lora_tta.errors import UserError
from lora_tta.files import atomic

CONDITIONING_FRAMES = 33
NUM_FRAMES = 65

MANIFEST_NAME = "manifest.csv"


@dataclass(frozen=True)
class Clip:
    """One row of ``manifest.csv``: a 65-frame H.264 clip and where it was cut from.

    ``window_start`` and ``window_end`` (exclusive) count frames of the source *after* its resampling to
    ``fps``, so the window begins ``window_start / fps`` seconds into the source. ``source_frames`` and
    ``source_fps`` describe the source itself. ``source`` is a POSIX path relative to the data root.
    Sizes are in pixels; ``sha256`` is the hash of the written file.
    """

    clip_id: str
    class_name: str
    caption: str
    source: str
    source_frames: int
    source_fps: float
    window_start: int
    window_end: int
    fps: int
    height: int
    width: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Name of the clip's file in the folder of its manifest."""
        return f"{self.clip_id}.mp4"


def write_manifest(folder: Path, clips: list[Clip]) -> None:
    """Write ``folder/manifest.csv`` atomically, classes interleaved.

    The order does not depend on the order of ``clips``: first every class's first clip by id, then every
    class's second, and so on, so that the first k rows are spread over as many classes as they can be.
    """
    with (
        atomic(folder / MANIFEST_NAME) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, [field.name for field in fields(Clip)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(clip) for clip in _interleave_classes(clips))


def read_manifest(folder: Path) -> list[Clip]:
    """Read ``folder/manifest.csv`` in its order.

    Raises:
        UserError: there is no manifest, or it is not one this version writes.
    """
    path = folder / MANIFEST_NAME
    types = get_type_hints(Clip)
    columns: dict[str, type] = {field.name: types[field.name] for field in fields(Clip)}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames != list(columns):
                raise UserError(f"{path}: the columns are not {', '.join(columns)}; run preprocess again")
            return [Clip(**{name: columns[name](value) for name, value in row.items()}) for row in rows]
    except FileNotFoundError:
        raise UserError(f"{path} not found: run preprocess first") from None
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): run preprocess again") from None


def _interleave_classes(clips: list[Clip]) -> list[Clip]:
    classes: dict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.clip_id):
        classes[clip.class_name].append(clip)
    ranked = [(rank, name, clip) for name, members in classes.items() for rank, clip in enumerate(members)]
    return [clip for _, _, clip in sorted(ranked, key=lambda item: item[:2])]
