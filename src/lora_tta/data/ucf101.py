"""UCF-101: its layout, file names, official lists and class names, and the import of the real data set.

The layout is ``<Class>/v_<Class>_gXX_cYY.avi`` (Soomro et al., 2012, https://www.crcv.ucf.edu/data/UCF101.php).
Any other folder of videos can be read as well.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from lora_tta.data.folder import list_files, printable
from lora_tta.errors import UserError

# Every later name of a clip is its id, the number of its window and a suffix. A file's name has 255 bytes.
MAX_ID_BYTES = 112
_UCF_STEM = re.compile(r"v_(?P<class_name>\w+)_g(?P<group>\d+)_c\d+")
# As the import names clips that it cuts from one video, in a folder of their own.
_CUT_STEM = re.compile(r"(?P<video>.+)_c\d{5}")
_CLASS_LINE = re.compile(r"\d+\s+[A-Za-z]\w*")
_LABEL_BEHIND = re.compile(r"\s+\d+$")
_CASE_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class Source:
    """A raw video: path, class, the id its clip will have (unique, fit for a file name), and words for it."""

    path: Path
    class_name: str
    clip_id: str
    words: str | None = None

    @property
    def caption(self) -> str:
        """The words, or if there are none those of the class."""
        return caption_of(self.class_name) if self.words is None else self.words


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
    """The group of its class that a name tells: ``g01`` of ``v_Archery_g01_c02.avi``. Most names tell none.

    UCF-101 cut the clips of one group of a class from the same video, or from videos of the same scene.
    ``abc/abc_c00001.mp4`` and its like were cut from one video (:mod:`lora_tta.data.listed_import`).
    """
    if match := _UCF_STEM.fullmatch(path.stem):
        return f"g{int(match['group']):02}"
    cut = _CUT_STEM.fullmatch(path.stem)
    return "video" if cut and cut["video"] == path.parent.name else None


def find_videos(root: Path) -> list[Source]:
    """Every file below ``root`` that may be a video, see :func:`~lora_tta.data.folder.list_files`."""
    return name_sources(list_files(root).files, root)


def name_sources(paths: Iterable[Path], root: Path) -> list[Source]:
    """The sources of files below ``root``, in their order.

    The clip id is the file's stem. Where two files share one, in any case, all but the first get their
    folders and extension into it. An id that is long is cut and gets a hash of the path.
    """
    sources: dict[str, Source] = {}
    for path in paths:
        relative = path.relative_to(root)
        clip_id = _fit_for_file_name(path.stem, relative)
        if clip_id.casefold() in sources:
            clip_id = _fit_for_file_name("-".join(relative.parts), relative)
        base, repeat = clip_id, 1
        while clip_id.casefold() in sources:
            repeat += 1
            clip_id = f"{base}-{repeat}"
        class_name = printable(class_of(path, root))
        sources[clip_id.casefold()] = Source(path, class_name, clip_id)
    return list(sources.values())


def read_split_list(path: Path) -> list[str]:
    """The names of an official list such as ``testlist01.txt`` or ``trainlist01.txt``, one a line.

    They circulate with and without folder, extension and a label before or behind them. Names that are not
    of UCF-101 may have a label behind them.

    Raises:
        UserError: the file is missing, lists nothing, or lists classes (``classInd.txt``).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a list of clips: {error}") from None
    lines = [line.strip().replace("\\", "/") for line in lines if line.strip()]
    if not lines:
        raise UserError(f"{path} lists no clips: give an official UCF-101 list or set the setting to null")
    if all(_CLASS_LINE.fullmatch(line) for line in lines):
        raise UserError(
            f"{path} numbers classes ({lines[0]!r}), and lists no clips: give trainlist or testlist"
        )
    return [_listed_name(line) for line in lines]


def _listed_name(line: str) -> str:
    for part in re.split(r"[\s,;]+", line):
        if _UCF_STEM.fullmatch(PurePosixPath(part).stem):
            return part
    return _LABEL_BEHIND.sub("", line)


def select_listed(sources: list[Source], names: list[str]) -> tuple[list[Source], list[str]]:
    """The sources that a list names, and the listed names that no source has; compared by file stem."""
    stems = {name: Path(name).stem for name in names}
    listed, present = set(stems.values()), {source.path.stem for source in sources}
    selected = [source for source in sources if source.path.stem in listed]
    return selected, [name for name, stem in stems.items() if stem not in present]


def is_ucf101_name(path: Path) -> bool:
    """Whether a file is named as UCF-101 names its clips."""
    return _UCF_STEM.fullmatch(path.stem) is not None


def _fit_for_file_name(text: str, relative: Path) -> str:
    fit = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text))
    if len(fit.encode()) <= MAX_ID_BYTES:
        return fit
    digest = hashlib.sha256(os.fsencode(relative)).hexdigest()[:12]
    head = fit.encode()[: MAX_ID_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{head}-{digest}"
