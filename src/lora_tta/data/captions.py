"""What the model is told of a video: words from beside the videos, else the name of their class.

The caption of ``a/b.mp4`` is the text of ``a/b.txt``; else the entry for ``a/b.mp4`` in ``captions.csv``
(columns ``path`` and ``caption``) or ``captions.jsonl`` (an object with these keys on every line) in the data
folder. All of them lie in that folder, so DVC sees when they change.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

from lora_tta.data.ucf101 import Source
from lora_tta.errors import UserError

TABLES = ("captions.csv", "captions.jsonl")


def with_captions(sources: Iterable[Source], root: Path, suffix: str | None) -> list[Source]:
    """The sources with their captions, each followed by ``suffix``.

    Raises:
        UserError: there are two tables of captions, or one cannot be read, lacks a column or names a video
            twice.
    """
    listed = _read_tables(root)
    captioned = []
    for source in sources:
        beside = source.path.with_suffix(".txt")
        if beside.is_file() and beside != source.path:
            caption = _read(beside)
        else:
            caption = listed.get(source.path.relative_to(root).as_posix(), source.caption)
        words = [*caption.split(), *([suffix] if suffix else [])]
        captioned.append(replace(source, words=" ".join(words)))
    return captioned


def caution(captions: Sequence[str], suffix: str | None) -> str | None:
    """A warning where more than half of several captions are equal, or empty; else ``None``."""
    if len(captions) < 2:
        return None
    caption, count = Counter(captions).most_common(1)[0]
    if 2 * count <= len(captions):
        return None
    bare = caption.removesuffix(suffix or "").strip()
    kind = f"the same, {bare!r}" if bare else "empty"
    return f"the captions of {count} of {len(captions)} clips are {kind}: see docs/videos.md to give others"


def _read_tables(root: Path) -> dict[str, str]:
    """Captions by path below ``root``."""
    present = [root / name for name in TABLES if (root / name).is_file()]
    if len(present) > 1:
        raise UserError(f"{root} holds {' and '.join(TABLES)}: leave one of them")
    captions: dict[str, str] = {}
    for table in present:
        text = _read(table)
        try:
            if table.suffix == ".csv":
                rows: Iterable[Mapping[str, object]] = csv.DictReader(StringIO(text, newline=""), strict=True)
            else:
                rows = (json.loads(line) for line in text.split("\n") if line.strip())
            for number, row in enumerate(rows, start=1):
                path, caption = row["path"], row["caption"]
                if not isinstance(path, str) or not isinstance(caption, str):
                    raise TypeError(f"entry {number} has no text as path or caption")
                path = path.replace("\\", "/").removeprefix("./")
                if path in captions:
                    raise ValueError(f"{path} has two captions")
                captions[path] = caption
        except KeyError as error:
            raise UserError(f"{table}: there is no {error}: give every entry a path and a caption") from None
        except (TypeError, ValueError, csv.Error) as error:
            problem = " ".join(str(error).split())
            raise UserError(f"{table}: {problem}: give every video one path and one caption") from None
    return captions


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as captions ({error}): write it in UTF-8") from None
