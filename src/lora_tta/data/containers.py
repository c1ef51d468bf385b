"""Opening a file as a video by its content alone, and whether it ends before its container says it does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NoReturn

import av
from av.container import InputContainer
from av.stream import Disposition

from lora_tta.data.rejection import Reason, RejectedError

# Larger than 8K: a few bytes can claim a picture that fills the memory.
_MAX_PIXELS = 2**25
_NO_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image

# zip, gzip, bzip2, xz, 7z, rar, zstd, PDF
_ARCHIVES = (
    b"PK\3\4",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"7z\xbc\xaf",
    b"Rar!",
    b"\x28\xb5\x2f\xfd",
    b"%PDF-",
)
_TAR, _TAR_AT = b"ustar", 257

_EBML, _SEGMENT, _VOID = 0x1A45DFA3, 0x18538067, 0xEC
_MP4_BOXES = frozenset(
    b"ftyp moov mdat free skip wide moof mfra sidx ssix styp emsg prft pdin uuid meta udta pnot PICT".split()
)


class _Unnamed(FileIO):
    """A file that is opened by its number, so it has no name, and whose errors FFmpeg learns of."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file, but -1 for a place that there is not. PyAV would print an exception and go on."""
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1


@contextmanager
def open_video(path: Path) -> Iterator[InputContainer]:
    """Open a file for demuxing.

    FFmpeg gets the bytes and neither name nor path: the format is that of the content, no name is taken for
    an address or a pattern, and a playlist opens no other file.

    Raises:
        RejectedError: FFmpeg cannot open it, or an error while it is open; a file that ends too early is told
            apart from one that is not readable.
    """
    try:
        with (
            _Unnamed(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), "rb") as file,
            av.open(
                _no_archive(file),
                "r",
                io_open=_refuse,
                container_options={"protocol_whitelist": "none"},
                metadata_errors="ignore",
            ) as container,
        ):
            yield container
    except (av.FFmpegError, OSError, ValueError) as error:
        if is_cut_short(path):
            raise RejectedError(
                Reason.TRUNCATED, "the file ends before its index or its first frame"
            ) from None
        raise RejectedError(Reason.UNREADABLE, _one_line(error)) from None


def video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    """The stream that a player shows, ready to be decoded.

    That is never a cover. It is the one that the file declares as its default, else the largest, else the
    one that FFmpeg chooses.

    Raises:
        RejectedError: there is none.
    """
    moving = [
        stream
        for stream in container.streams.video
        if not stream.disposition & _NO_PICTURES and stream.codec_context is not None
    ]
    if not moving:
        if is_cut_short(path):
            raise RejectedError(Reason.TRUNCATED, "the file ends within its index")
        raise RejectedError(Reason.NO_VIDEO, "there is no video stream")
    best = container.streams.best("video")

    def rank(stream: av.VideoStream) -> tuple[bool, bool, int, bool]:
        pixels = stream.codec_context.width * stream.codec_context.height
        return bool(stream.disposition & Disposition.default), stream.frames != 1, pixels, stream == best

    stream = max(moving, key=rank)
    stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
    stream.codec_context.thread_count = 1  # the processes are parallel already
    return stream


def is_cut_short(path: Path) -> bool:
    """Whether the last top-level element of an MP4, AVI or Matroska file runs past the end of the file.

    False for any other kind of file, and for elements that declare no size (live recordings). Bytes behind
    the last element that belong to nothing do not count.
    """
    try:
        file_size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(12)
            if head[4:8] in _MP4_BOXES:
                next_element = _next_mp4_box
            elif head[:4] == b"RIFF":
                next_element = _next_riff_chunk
            elif int.from_bytes(head[:4]) == _EBML:
                next_element = _next_ebml_element
            else:
                return False
            position = 0
            while position < file_size:
                file.seek(position)
                end = next_element(file, position)
                if end is None:
                    return False
                position = end
            return position > file_size
    except OSError:
        return False


def ends_in_index(stream: av.VideoStream, path: Path) -> bool:
    """Whether the index of an MP4 or Matroska file names a place behind the end of the file."""
    if not stream.container.format.name.startswith(("mov", "matroska")):
        return False
    file_size = path.stat().st_size
    return any(entry.pos + max(entry.size, 1) > file_size for entry in stream.index_entries)


def _no_archive(file: BinaryIO) -> BinaryIO:
    """The file as it is; FFmpeg would find the streams of the videos that an archive holds."""
    head = file.read(_TAR_AT + len(_TAR))
    file.seek(0)
    if head.startswith(_ARCHIVES) or head[_TAR_AT:] == _TAR:
        raise RejectedError(Reason.NO_VIDEO, "it is an archive or a document: extract what it holds")
    return file


def _refuse(*_: object) -> NoReturn:
    raise PermissionError("it points to another file")


def _next_mp4_box(file: BinaryIO, position: int) -> int | None:
    """ISO/IEC 14496-12, 4.2: 32-bit size, type, and a 64-bit size if the first is 1; 0 is 'to the end'."""
    size = int.from_bytes(file.read(4))
    if file.read(4) not in _MP4_BOXES:
        return None
    if size == 1:
        size = int.from_bytes(file.read(8))
    return position + size if size >= 8 else None


def _next_riff_chunk(file: BinaryIO, position: int) -> int | None:
    """RIFF: four letters, then the little-endian size of what follows."""
    if file.read(4) not in (b"RIFF", b"LIST", b"JUNK", b"idx1"):
        return None
    size = int.from_bytes(file.read(4), "little")
    return position + 8 + size if size else None


def _next_ebml_element(file: BinaryIO, position: int) -> int | None:
    """RFC 8794: an id and a size whose leading zero bits tell their widths; all ones is 'unknown'."""
    first = file.read(1)
    id_width = _vint_width(first)
    if int.from_bytes(first + file.read(id_width - 1)) not in (_EBML, _SEGMENT, _VOID):
        return None
    first = file.read(1)
    width = _vint_width(first)
    value = int.from_bytes(first + file.read(width - 1))
    size = value & ((1 << 7 * width) - 1)
    unknown = size == (1 << 7 * width) - 1
    return None if unknown else position + id_width + width + size


def _vint_width(first_byte: bytes) -> int:
    return 9 - int.from_bytes(first_byte).bit_length()


def _one_line(error: Exception) -> str:
    # FFmpeg's own words, without the path of the file on this machine.
    return " ".join((getattr(error, "strerror", None) or str(error)).split())
