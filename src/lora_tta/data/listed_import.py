"""Bring captioned videos into the data folder: those of a table, or those of a folder with its captions."""

import re
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lora_tta.data.caption_tables import Listed, ListedClips, read_table
from lora_tta.data.captions import with_captions
from lora_tta.data.folder import VIDEO_SUFFIXES, printable
from lora_tta.data.importing import Brought, as_folder, beside, bring_in
from lora_tta.data.rejection import RejectedError
from lora_tta.data.segments import cut_segment
from lora_tta.data.ucf101 import caption_of, find_videos
from lora_tta.errors import UserError

WANTED = "a folder of videos or an archive of one"
# As the downloader of Panda-70M names clips: the number of the video, and that of the clip.
_DOWNLOADED = re.compile(r"(?P<video>\d{7,})_(?P<clip>\d{5})")


@dataclass(frozen=True)
class ListedCounts:
    """What became of a collection.

    Attributes:
        brought: videos.
        captions: how many of them have one of their own.
        not_there: listed videos that the folder does not hold.
        unusable: clips that could not be cut, with the reason of the first; empty if there are none.
    """

    brought: Brought
    captions: int
    not_there: int
    unusable: str


def import_collection(
    source: Path, root: Path, table: Path | None = None, replace: bool = False, skip_missing: bool = False
) -> ListedCounts:
    """Copy captioned videos to ``root``, each with its caption as ``.txt`` beside it.

    Files keep their paths. Of Panda-70M, clips are cut out of the videos named by their ids, and go to
    ``root/<id>/<id>_c<number>.mp4``. Its videos that are not there are passed over, since some always are
    missing.

    Args:
        source: a folder of videos, at any depth, or an archive of one.
        root: the data folder, made if missing.
        table: a CSV file, see :mod:`lora_tta.data.caption_tables`; None takes all videos of the folder, with
            the captions that preprocessing would give them there.
        replace: remove the videos in ``root`` that are not of the collection.
        skip_missing: whether files of a plain table may be missing.

    Raises:
        UserError: the source or the table cannot be read, none of its videos is there, a file of a plain
            table is missing, two files would share a caption, or ``root`` holds other videos. Nothing has
            been imported.
    """
    rows = read_table(table) if table is not None else None
    with as_folder(source, root, WANTED) as folder, beside(root) as cuts:
        unusable: list[str] = []
        if rows is None:
            captions = _as_they_lie(folder, root, source)
            not_there = 0
        elif clips := [row for row in rows if isinstance(row, ListedClips)]:
            captions, not_there = _cut(clips, folder, cuts, root, unusable)
        else:
            listed = [row for row in rows if isinstance(row, Listed)]
            captions, not_there = _listed(listed, folder, root, None if skip_missing else table)
        if not captions:
            why = f"; {unusable[0]}" if unusable else ""
            raise UserError(f"{source} holds none of the videos that {table} lists{why}")
        _check_texts(captions, root)
        targets = {target: path for target, (path, _) in captions.items()}
        worded = {target: words for target, (_, words) in captions.items() if words is not None}
        brought = bring_in(targets, root, replace, worded)
    reasons = f"{len(unusable)} clips cannot be cut, such as {unusable[0]}" if unusable else ""
    return ListedCounts(brought, len(worded), not_there, reasons)


# Where a video goes, where it is now, and its caption, None where it has none of its own.
Captioned = dict[Path, tuple[Path, str | None]]


def _as_they_lie(folder: Path, root: Path, source: Path) -> Captioned:
    videos = [video for video in find_videos(folder) if video.path.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise UserError(f"{source} holds no videos: give {WANTED}")
    captioned: Captioned = {}
    for video in with_captions(videos, folder, None):
        target = video.path.relative_to(folder)
        match = _DOWNLOADED.fullmatch(video.path.stem)
        if match and video.path.with_suffix(".json").exists():
            name = match["video"]
            target = Path(name) / f"{name}_c{match['clip']}{video.path.suffix}"
        own = video.caption != caption_of(video.class_name) or video.path.with_suffix(".txt").exists()
        captioned[root / target] = video.path, video.caption if own else None
    return captioned


def _listed(rows: list[Listed], folder: Path, root: Path, table: Path | None) -> tuple[Captioned, int]:
    """``table`` names the table of which no file may be missing."""
    there = [row for row in rows if (folder / row.path).is_file()]
    if table is not None and len(there) < len(rows):
        first = next(row.path for row in rows if not (folder / row.path).is_file())
        raise UserError(
            f"{table}: {len(rows) - len(there)} of {len(rows)} files are not in the folder, such as {first}: "
            "get them, or give --skip-missing"
        )
    return {root / row.path: (folder / row.path, row.caption) for row in there}, len(rows) - len(there)


def _cut(
    rows: list[ListedClips], folder: Path, cuts: Path, root: Path, unusable: list[str]
) -> tuple[Captioned, int]:
    """Cut the clips to ``cuts``; adds to ``unusable``."""
    videos = {video.path.stem: video.path for video in find_videos(folder)}
    there = [row for row in rows if row.video_id in videos]
    captioned: Captioned = {}
    for row in tqdm(there, desc="cut", unit="video"):
        for number, (span, caption) in enumerate(zip(row.spans, row.captions, strict=True)):
            name = Path(row.video_id) / f"{row.video_id}_c{number:05}.mp4"
            try:
                cut_segment(videos[row.video_id], *span, cuts / name)
            except RejectedError as rejected:
                unusable.append(f"{printable(videos[row.video_id].name)}: {rejected.detail}")
            else:
                captioned[root / name] = cuts / name, caption
    return captioned, len(rows) - len(there)


def _check_texts(captioned: Captioned, root: Path) -> None:
    texts: dict[Path, Path] = {}
    for target in captioned:
        other = texts.setdefault(target.with_suffix(".txt"), target)
        if other != target:
            names = " and ".join(printable(path.relative_to(root).as_posix()) for path in (other, target))
            raise UserError(f"{names} would share the caption in one .txt: rename one of them")
