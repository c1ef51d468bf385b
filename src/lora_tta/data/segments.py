"""Cutting a part out of a video without decoding it."""

from fractions import Fraction
from pathlib import Path

import av

from lora_tta.data.containers import open_video, video_stream
from lora_tta.data.rejection import Reason, RejectedError
from lora_tta.data.transcode import packets_with_data
from lora_tta.files import atomic


def cut_segment(path: Path, start: float, end: float, target: Path) -> None:
    """Write the pictures of a video from ``start`` to ``end``, in seconds, as they are to an MP4, atomically.

    The file begins with the whole picture before ``start``, and its edit list leaves out what comes before
    ``start``, as players do.

    Raises:
        RejectedError: the file is no video, ends before ``start``, or has a codec that MP4 does not take.
    """
    with open_video(path) as container:
        stream = video_stream(container, path)
        time_base = stream.time_base or Fraction(1, 1000)
        origin = stream.start_time or 0
        first, behind = (origin + round(Fraction(seconds) / time_base) for seconds in (start, end))
        kept: list[av.Packet] = []
        shown = 0
        for packet in packets_with_data(container, stream):
            if packet.pts is None:
                raise RejectedError(Reason.BAD_TIMES, "its pictures have no times")
            if packet.is_keyframe and packet.pts <= first:
                kept = []
            if packet.dts is not None and packet.dts >= behind:
                break
            if packet.pts < behind:
                shown += packet.pts >= first
                packet.pts = packet.pts - first
                packet.dts = None if packet.dts is None else packet.dts - first
                kept.append(packet)
        if not shown or not kept[0].is_keyframe:
            raise RejectedError(Reason.TOO_SHORT, f"nothing is shown from {start:g} to {end:g} s")
        _complete(kept)
        with atomic(target) as partial, _writing(partial) as output:
            written = output.add_stream_from_template(stream)
            for packet in kept:
                packet.stream = written
                output.mux(packet)


def _complete(packets: list[av.Packet]) -> None:
    """Matroska does not tell when its first pictures are decoded: in their order, before the others."""
    following: int | None = None
    for packet in reversed(packets):
        if packet.dts is None:
            before = packet.pts if following is None else following - max(packet.duration or 1, 1)
            packet.dts = before
        following = packet.dts


def _writing(path: Path) -> av.container.OutputContainer:
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1", "movflags": "+faststart"}
    return av.open(str(path), "w", format="mp4", options=options)
