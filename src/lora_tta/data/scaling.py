"""Conversion of decoded frames by libavfilter: crop, resize, colour.

Everything that is encoded is yuv420p in limited range with chroma samples sited left, as H.264
assumes; swscale alone, unlike libavfilter, would site them in the centre and shift the colours.
"""

from fractions import Fraction

import av
import av.filter
from av.video.reformatter import ColorRange

# Matrix coefficients as numbered by H.264 (ITU-T H.273, table 4).
BT709, BT601 = 1, 6
_RGB, _UNSPECIFIED, _BT470BG = 0, 2, 5

_MATRIX_NAMES = {BT709: "bt709", BT601: "bt601"}
_SCALING = "flags=bicubic+accurate_rnd"


class FrameScaler:
    """Turns frames upright, crops their centre and resizes it, to yuv420p.

    The colour matrix, ``colorspace``, is the source's where it is BT.709 or BT.601 (the convention
    for untagged frames: BT.709 from 720 lines on). Anything else becomes BT.709, full range limited.

    Args:
        frame: one of the frames to come; they have to be alike.
        sample_aspect_ratio: width to height of a pixel; ``None`` is square.
        height: of the result, in pixels, even.
        width: likewise.
    """

    def __init__(self, frame: av.VideoFrame, sample_aspect_ratio: Fraction | None, height: int, width: int):
        self._shape = (frame.width, frame.height, frame.format.name)
        source_matrix = frame.colorspace
        if source_matrix == _UNSPECIFIED and not frame.format.is_rgb:
            source_matrix = BT709 if frame.height >= 720 else BT601
        self.colorspace = BT601 if source_matrix in (BT601, _BT470BG) else BT709
        full_range = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")

        pixel_aspect = sample_aspect_ratio or Fraction(1)
        upright_width, upright_height = frame.width, frame.height
        if frame.rotation % 180:
            upright_width, upright_height = upright_height, upright_width
            pixel_aspect = 1 / pixel_aspect
        box = crop_box(upright_width, upright_height, Fraction(width, height) / pixel_aspect)
        self._graph = _filter_graph(
            frame,
            [
                *_upright(frame.rotation),
                ("crop", ":".join(str(length) for length in box)),
                ("scale", f"{width}:{height}:{_SCALING}:{_output_colours(self.colorspace)}"),
                ("format", "yuv420p"),
            ],
            source_matrix,
            ColorRange.JPEG if full_range or frame.format.is_rgb else ColorRange.MPEG,
        )

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The scaled frame, newly allocated.

        Raises:
            ValueError: the frame is not of the size and pixel format of the first one.
        """
        if (frame.width, frame.height, frame.format.name) != self._shape:
            raise ValueError(f"the picture changes to {frame.width}x{frame.height} {frame.format.name}")
        return _filtered(self._graph, frame)


class RGBConverter:
    """Turns RGB frames of one size into yuv420p with the BT.709 matrix."""

    def __init__(self, height: int, width: int):
        template = av.VideoFrame(width, height, "rgb24")
        steps: list[tuple[str, ...]] = [
            ("scale", f"{_SCALING}:{_output_colours(BT709)}"),
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


def _upright(rotation: int) -> list[tuple[str, ...]]:
    """Filters that turn a frame by ``rotation`` degrees counter-clockwise, to the nearest right angle."""
    filters: dict[int, list[tuple[str, ...]]] = {
        0: [],
        1: [("transpose", "cclock")],
        2: [("hflip",), ("vflip",)],
        3: [("transpose", "clock")],
    }
    return filters[round(rotation / 90) % 4]
