"""Tables of videos and captions as data sets publish them: plain ones, and Panda-70M's.

A plain table has a ``path`` and a ``caption`` in every row. Panda-70M (https://arxiv.org/abs/2402.19479) has
a row for every YouTube video, with the columns ``videoID``, ``url``, ``timestamp`` (a list of the starts and
ends of its clips) and ``caption`` (a list of theirs).
"""

import ast
import csv
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from lora_tta.errors import UserError

_CAPTION, _PATH, _ID, _URL, _TIMES = "caption", "path", "videoID", "url", "timestamp"
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TIME = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
# The captions of a long video are one cell.
_MAX_CELL = 2**24

Row = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Listed:
    """A captioned file: its path below the folder of the videos, as POSIX."""

    path: str
    caption: str


@dataclass(frozen=True)
class ListedClips:
    """A video, and when its captioned clips start and end, in seconds."""

    video_id: str
    spans: tuple[tuple[float, float], ...]
    captions: tuple[str, ...]


def read_table(path: Path) -> list[Listed] | list[ListedClips]:
    """The rows of a CSV file in UTF-8, of either kind.

    Raises:
        UserError: the file cannot be read, holds no rows, lacks a column, or has a row that is wrong.
    """
    csv.field_size_limit(_MAX_CELL)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            columns = {*(rows.fieldnames or [])}
            if {_CAPTION, _PATH} <= columns:
                return _read_rows(path, rows, _listed, lambda row: row.path)
            if {_CAPTION, _TIMES} <= columns and {_ID, _URL} & columns:
                return _read_rows(path, rows, _listed_clips, lambda row: row.video_id)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a table in UTF-8: {error}") from None
    except csv.Error as error:
        raise UserError(f"{path} is no valid CSV: {error}") from None
    seen = ", ".join(map(repr, sorted(columns)[:8])) or "no columns"
    raise UserError(
        f"{path} has {seen}: give the columns {_PATH} and {_CAPTION}, or those of Panda-70M "
        f"({_ID} or {_URL}, {_TIMES}, {_CAPTION})"
    )


def _read_rows(
    path: Path, rows: Iterable[Row], parse: Callable[[Row], T], name: Callable[[T], Hashable]
) -> list[T]:
    parsed: dict[Hashable, T] = {}
    for number, row in enumerate(rows, start=1):
        try:
            value = parse(row)
            if name(value) in parsed:
                raise ValueError(f"{name(value)} is listed twice")
        except ValueError as error:
            raise UserError(f"{path}, entry {number}: {error}") from None
        parsed[name(value)] = value
    if not parsed:
        raise UserError(f"{path} lists no videos")
    return list(parsed.values())


def _cell(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise ValueError(f"there is no {column}")
    return value.strip()


def _listed(row: Row) -> Listed:
    path = _cell(row, _PATH).replace("\\", "/")
    while path.startswith("./"):
        path = path[2:]
    parts = PurePosixPath(path).parts
    if not parts or "\0" in path:
        raise ValueError(f"{path!r} is no path")
    if path.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", path):
        raise ValueError(f"{path} leads out of the folder: give paths below it")
    if any(part.startswith(".") for part in parts):
        raise ValueError(f"{path} is hidden, and hidden files are not read: rename it")
    return Listed("/".join(parts), _cell(row, _CAPTION))


def _listed_clips(row: Row) -> ListedClips:
    video_id = _cell(row, _ID) if row.get(_ID) else _id_in(_cell(row, _URL))
    if not _VIDEO_ID.fullmatch(video_id):
        raise ValueError(f"{video_id!r} is no id of a video")
    captions, spans = _value(row, _CAPTION), _value(row, _TIMES)
    if isinstance(captions, str):
        captions, spans = [captions], [spans]
    if isinstance(spans, list) and len(spans) == 2 and len(captions) == 1 and isinstance(spans[0], str):
        spans = [spans]
    if not isinstance(spans, list) or not isinstance(captions, list) or len(spans) != len(captions):
        raise ValueError(f"{video_id} has not as many captions as times")
    if not captions or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"{video_id} has a caption that is no text")
    return ListedClips(video_id, tuple(_span(video_id, span) for span in spans), tuple(captions))


def _value(row: Row, column: str) -> Any:
    """A list as Python and JSON write it; what is no literal is a text."""
    text = _cell(row, column)
    if not text.startswith("["):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{column} is no list: {text[:60]!r}") from None


def _span(video_id: str, span: object) -> tuple[float, float]:
    if not isinstance(span, list | tuple) or len(span) != 2:
        raise ValueError(f"{video_id} has a time without start and end: {str(span)[:60]!r}")
    start, end = map(_seconds, span)
    if not start < end:
        raise ValueError(f"{video_id} has a clip that ends before it starts: {span}")
    return start, end


def _seconds(text: object) -> float:
    """Of ``0:01:02.500`` or ``62.5``."""
    if isinstance(text, str) and (match := _TIME.fullmatch(text.strip())):
        hours, minutes, seconds = match.groups(default="0")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    try:
        seconds = float(text) if isinstance(text, str | int | float) else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{str(text)[:60]!r} is no time")
    return seconds


def _id_in(url: str) -> str:
    """The id in the URL of a YouTube video."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    return query["v"][0] if "v" in query else parts.path.rpartition("/")[2]
