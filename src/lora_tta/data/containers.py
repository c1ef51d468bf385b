"""Does a video file end before its container says it does? Told from the headers, without decoding."""

from pathlib import Path
from typing import BinaryIO

_EBML = b"\x1a\x45\xdf\xa3"


def is_cut_short(path: Path) -> bool:
    """Whether the last top-level element of an MP4, AVI or Matroska file runs past the end of the file.

    False for any other kind of file, and for elements that declare no size (live recordings).
    """
    file_size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] == b"ftyp":
            next_element = _next_mp4_box
        elif head[:4] == b"RIFF":
            next_element = _next_riff_chunk
        elif head[:4] == _EBML:
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


def _next_mp4_box(file: BinaryIO, position: int) -> int | None:
    """ISO/IEC 14496-12, 4.2: 32-bit size, type, and a 64-bit size if the first is 1; 0 is 'to the end'."""
    size = int.from_bytes(file.read(4))
    file.read(4)
    if size == 1:
        size = int.from_bytes(file.read(8))
    return position + size if size >= 8 else None


def _next_riff_chunk(file: BinaryIO, position: int) -> int | None:
    """RIFF: four letters, then the little-endian size of what follows, padded to an even number."""
    file.read(4)
    size = int.from_bytes(file.read(4), "little")
    return position + 8 + size if size else None


def _next_ebml_element(file: BinaryIO, position: int) -> int | None:
    """RFC 8794: an id and a size whose leading zero bits tell their widths; all ones is 'unknown'."""
    id_width = _vint_width(file.read(1))
    file.read(id_width - 1)
    first = file.read(1)
    width = _vint_width(first)
    value = int.from_bytes(first + file.read(width - 1))
    size = value & ((1 << 7 * width) - 1)
    unknown = size == (1 << 7 * width) - 1
    return None if unknown else position + id_width + width + size


def _vint_width(first_byte: bytes) -> int:
    return 9 - int.from_bytes(first_byte).bit_length()
