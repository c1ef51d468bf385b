"""UCF-101: its layout, file names, official lists and class names, and the import of the real data set.

The layout is ``<Class>/v_<Class>_gXX_cYY.avi`` (Soomro et al., 2012, https://www.crcv.ucf.edu/data/UCF101.php).
Any other folder of videos can be read as well.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from lora_tta.errors import UserError

VIDEO_SUFFIXES = frozenset(
    {".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".ogv"}
)
_UCF_STEM = re.compile(r"v_(?P<class_name>\w+)_g(?P<group>\d+)_c\d+")
_CASE_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class Source:
    """A raw video: its path, its class and the id its clip will have (unique, fit for a file name)."""

    path: Path
    class_name: str
    clip_id: str


def caption_of(class_name: str) -> str:
    """The prompt that a class name stands for: its words in lower case.

    >>> caption_of("PlayingCello"), caption_of("BMXRiding"), caption_of("h265_video")
    ('playing cello', 'bmx riding', 'h265 video')
    """
    return " ".join(_CASE_BOUNDARY.sub(" ", class_name).replace("_", " ").replace("-", " ").lower().split())


def class_of(path: Path, root: Path) -> str:
    """The class of a video below ``root``.

    That of a UCF-101 file name (spelled as its folder if both are the same but for case: UCF-101 itself has
    ``HandstandPushups/v_HandStandPushups_g01_c01.avi``), else the folder's name, else the file's own.
    """
    folder = path.parent.name if path.parent != root else None
    if match := _UCF_STEM.fullmatch(path.stem):
        named = match["class_name"]
        return folder if folder and folder.lower() == named.lower() else named
    return folder or path.stem


def group_of(path: PurePath) -> str | None:
    """The group that a UCF-101 file name tells: ``g01`` of ``v_Archery_g01_c02.avi``. Others tell none.

    UCF-101 cut the clips of one group of a class from the same video, or from videos of the same scene.
    """
    match = _UCF_STEM.fullmatch(path.stem)
    return f"g{int(match['group']):02}" if match else None


def find_videos(root: Path) -> list[Source]:
    """Every video below ``root``, by file name extension, sorted by path; hidden files are left out.

    The clip id is the file's stem. Where two files share one, all but the first by path get their folders
    and extension into it.
    """
    paths = sorted(
        (
            path
            for path in root.rglob("*")
            if path.suffix.lower() in VIDEO_SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(root).parts)
            and path.is_file()
        ),
        key=lambda path: path.relative_to(root).as_posix(),
    )
    sources: dict[str, Source] = {}
    for path in paths:
        clip_id = _fit_for_file_name(path.stem)
        if clip_id in sources:
            clip_id = _fit_for_file_name("-".join(path.relative_to(root).parts))
        base, repeat = clip_id, 1
        while clip_id in sources:
            repeat += 1
            clip_id = f"{base}-{repeat}"
        sources[clip_id] = Source(path, class_of(path, root), clip_id)
    return list(sources.values())


def read_split_list(path: Path) -> list[str]:
    """The ``<Class>/<file>`` names of an official list such as ``testlist01.txt`` or ``trainlist01.txt``.

    Raises:
        UserError: the file is missing or lists nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of clips: {error}") from None
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path} lists no clips: give an official UCF-101 list or set the setting to null")
    return names


def select_listed(sources: list[Source], names: list[str]) -> tuple[list[Source], list[str]]:
    """The sources that a list names, and the listed names that no source has; compared by file stem."""
    stems = {name: Path(name).stem for name in names}
    listed, present = set(stems.values()), {source.path.stem for source in sources}
    selected = [source for source in sources if source.path.stem in listed]
    return selected, [name for name, stem in stems.items() if stem not in present]


def is_ucf101_name(path: Path) -> bool:
    """Whether a file is named as UCF-101 names its clips."""
    return _UCF_STEM.fullmatch(path.stem) is not None


def _fit_for_file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)
