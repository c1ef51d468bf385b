"""Conversion of decoded frames by libavfilter: crop, resize, colour.

Everything that is encoded is yuv420p in limited range with chroma samples sited left, as H.264
assumes; swscale alone, unlike libavfilter, would site them in the centre and shift the colours.
"""

import struct
from collections.abc import Hashable
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import av
import av.filter
from av.sidedata.sidedata import SideData
from av.video.reformatter import ColorRange

from lora_tta.data.tone_mapping import needs_mapping, to_bt709

# Matrix coefficients as numbered by H.264 (ITU-T H.273, table 4).
BT709, BT601 = 1, 6
_RGB, _UNSPECIFIED, _RESERVED, _BT470BG = 0, 2, 3, 5
# That swscale converts; besides these FCC, SMPTE 240M and BT.2020. Others it takes for BT.601 in silence.
_KNOWN = (BT709, BT601, _BT470BG, 4, 7, 9, 10)

_MATRIX_NAMES = {BT709: "bt709", BT601: "bt601"}
_SCALING = "flags=bicubic+accurate_rnd"


def shape_of(frame: av.VideoFrame, sample_aspect_ratio: Fraction | None) -> Fraction:
    """Height / width of a frame as it is shown, upright.

    Args:
        frame: as stored.
        sample_aspect_ratio: width to height of a pixel; ``None`` is square.
    """
    shape = Fraction(frame.height, frame.width) / (sample_aspect_ratio or 1)
    return 1 / shape if _orientation(frame).transposed else shape


class FrameScaler:
    """Turns frames upright, crops their centre and resizes it, to yuv420p.

    The colour matrix, ``colorspace``, is that of the first frame where it is BT.709 or BT.601 (the convention
    for untagged frames: BT.709 from 720 lines on). Anything else becomes BT.709, full range limited, HDR and
    wide gamuts as :mod:`lora_tta.data.tone_mapping` has it. A frame of another size is scaled to the first's.

    Of an interlaced frame one field is taken and its lines are interpolated. Filters that look at the next
    frame would show the model something of the first one that it has to predict.

    Args:
        frame: the first of the frames to come.
        sample_aspect_ratio: width to height of a pixel; ``None`` is square.
        height: of the result, in pixels, even.
        width: likewise.
    """

    def __init__(self, frame: av.VideoFrame, sample_aspect_ratio: Fraction | None, height: int, width: int):
        self._first_size = frame.width, frame.height
        self._pixel_aspect = sample_aspect_ratio or Fraction(1)
        self.height, self.width = height, width
        # Of the first frame alone: a frame asked for its side data is kept until garbage is collected.
        self._orientation = _orientation(frame)
        self.colorspace = BT601 if _source_matrix(frame) in (BT601, _BT470BG) else BT709
        if needs_mapping(frame.color_primaries, frame.color_trc):
            self.colorspace = BT709
        self._graphs: dict[Hashable, av.filter.Graph] = {}

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The scaled frame, newly allocated.

        Raises:
            ValueError: its colours cannot be converted.
        """
        mapped = needs_mapping(frame.color_primaries, frame.color_trc)
        matrix, full_range = _source_matrix(frame), _is_full_range(frame)
        shape = (frame.width, frame.height, frame.format.name, frame.interlaced_frame)
        key = (*shape, matrix, full_range, mapped)
        if key not in self._graphs:
            steps = self._steps(frame, mapped)
            color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
            self._graphs[key] = _filter_graph(frame, steps, matrix, color_range)
        scaled = _filtered(self._graphs[key], frame)
        if not mapped:
            return scaled
        colours = to_bt709(scaled.to_ndarray(), frame.color_primaries, frame.color_trc)
        return self._to_yuv(av.VideoFrame.from_ndarray(colours))

    @cached_property
    def _to_yuv(self) -> "RGBConverter":
        return RGBConverter(self.height, self.width, self.colorspace)

    def _steps(self, frame: av.VideoFrame, mapped: bool) -> list[tuple[str, ...]]:
        steps: list[tuple[str, ...]] = [("field", "top")] if frame.interlaced_frame else []
        if (frame.width, frame.height) != self._first_size:
            steps.append(("scale", f"{':'.join(map(str, self._first_size))}:{_SCALING}"))
        elif frame.interlaced_frame:
            steps.append(("scale", f"{frame.width}:{frame.height}:{_SCALING}"))
        width, height = self._first_size
        pixel_aspect = self._pixel_aspect
        if self._orientation.transposed:
            width, height, pixel_aspect = height, width, 1 / pixel_aspect
        box = crop_box(width, height, Fraction(self.width, self.height) / pixel_aspect)
        size = f"{self.width}:{self.height}"
        colours = "out_range=pc" if mapped else _output_colours(self.colorspace)
        return [
            *steps,
            *self._orientation.filters(),
            ("crop", ":".join(str(length) for length in box)),
            ("scale", f"{size}:{_SCALING}{'+full_chroma_int' if mapped else ''}:{colours}"),
            ("format", "rgb48le" if mapped else "yuv420p"),
        ]


class RGBConverter:
    """Turns RGB frames of one size into yuv420p with a matrix, BT.709 if none is named."""

    def __init__(self, height: int, width: int, colorspace: int = BT709):
        template = av.VideoFrame(width, height, "rgb24")
        steps: list[tuple[str, ...]] = [
            ("scale", f"{_SCALING}:{_output_colours(colorspace)}"),
            ("format", "yuv420p"),
        ]
        self._graph = _filter_graph(template, steps, _RGB, ColorRange.JPEG)

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The converted frame, newly allocated."""
        return _filtered(self._graph, frame)


def crop_box(width: int, height: int, aspect_ratio: Fraction) -> tuple[int, int, int, int]:
    """The largest centred box (width, height, x, y) of about this width / height; all even, for 4:2:0."""
    box_width = min(width, round(height * aspect_ratio))
    box_height = min(height, round(width / aspect_ratio))
    box_width, box_height = max(box_width // 2 * 2, 2), max(box_height // 2 * 2, 2)
    return box_width, box_height, (width - box_width) // 4 * 2, (height - box_height) // 4 * 2


def _filter_graph(
    frame: av.VideoFrame, steps: list[tuple[str, ...]], colorspace: int, color_range: ColorRange
) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base="1/1",
        colorspace=str(colorspace),
        range=str(int(color_range)),
    )
    graph.link_nodes(source, *(graph.add(*step) for step in steps), graph.add("buffersink")).configure()
    return graph


def _filtered(graph: av.filter.Graph, frame: av.VideoFrame) -> av.VideoFrame:
    graph.vpush(frame)
    return graph.vpull()


def _output_colours(colorspace: int) -> str:
    return f"out_range=tv:out_chroma_loc=left:out_color_matrix={_MATRIX_NAMES[colorspace]}"


def _source_matrix(frame: av.VideoFrame) -> int:
    if frame.format.is_rgb:
        return _RGB
    if frame.colorspace in (_RGB, _UNSPECIFIED, _RESERVED):
        return BT709 if frame.height >= 720 else BT601
    if frame.colorspace not in _KNOWN:
        raise ValueError(f"its colours are coded by a matrix that is not supported: {frame.colorspace}")
    return frame.colorspace


def _is_full_range(frame: av.VideoFrame) -> bool:
    tagged = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    return tagged or frame.format.is_rgb


class Orientation(NamedTuple):
    """How stored pictures become upright: rows and columns exchanged first, then mirrored."""

    transposed: bool
    mirrored: bool
    upside_down: bool

    def filters(self) -> list[tuple[str, ...]]:
        """The filters that do it."""
        return [
            *([("transpose", "cclock_flip")] if self.transposed else []),
            *([("hflip",)] if self.mirrored else []),
            *([("vflip",)] if self.upside_down else []),
        ]


def _orientation(frame: av.VideoFrame) -> Orientation:
    """That of the display matrix, which is stored by columns (ISO/IEC 14496-12, 6.2.2)."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return Orientation(False, False, False)
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    return nearest_orientation(a, b, c, d)


def nearest_orientation(a: int, b: int, c: int, d: int) -> Orientation:
    """Of the eight orientations the one nearest to a display matrix.

    A stored point (x, y) is shown at (a x + c y, b x + d y); y grows downwards.
    """
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)
