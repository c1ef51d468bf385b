"""Part of one video, read as preprocessing reads it: from a given time on, or the end."""

import tempfile
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from lora_tta.data.containers import open_video, video_stream
from lora_tta.data.rejection import Reason, RejectedError
from lora_tta.data.resolution import Resolution
from lora_tta.data.timeline import resample
from lora_tta.data.transcode import Packets, decode_intact, read_packets, scaler_for
from lora_tta.data.video import encode_h264, read_video

# Decoding starts at a whole picture at least this much before the excerpt, in seconds.
_LEAD = 1.0


@dataclass(frozen=True)
class Excerpt:
    """Consecutive frames of a video at ``fps``, cropped and scaled as those of clips, yuv420p.

    Attributes:
        frames: of one size.
        colorspace: their colour matrix.
        fps: frames per second.
        available: how many frames the whole video has at this rate.
    """

    frames: list[av.VideoFrame]
    colorspace: int
    fps: int
    available: int

    def pixels(self, first: int, end: int) -> np.ndarray:
        """Frames ``first`` to ``end``, as a clip holds them: uint8 (T, H, W, 3) RGB."""
        frames = self.frames[first:end]
        size = frames[0].height, frames[0].width
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            encode_h264(path, frames, self.fps, *size, self.colorspace)
            return read_video(path, len(frames))


def read_excerpt(
    path: Path, size: tuple[int, int] | Resolution, fps: int, num_frames: int, start: int | None = None
) -> Excerpt:
    """At most ``num_frames`` frames of a video.

    Args:
        path: any file that preprocessing reads.
        size: height and width of the frames in pixels, or the budget from which the video's shape makes them.
        fps: of the frames; the video is resampled.
        num_frames: fewer come where the video ends.
        start: the first frame, counted at ``fps``; None takes the last frames of the video.

    Raises:
        RejectedError: the file is no video, is damaged, or ends before ``start``.
    """
    packets = read_packets(path)
    available = max(packets.timing.num_resampled(fps), 0)
    # A second more, since the last pictures may be missing.
    begin = max(available - num_frames - fps, 0) if start is None else start
    count = available - begin if start is None else min(num_frames, available - begin)
    kept: deque[av.VideoFrame] = deque(maxlen=num_frames)
    scaler = None
    with open_video(path) as container:
        stream = video_stream(container, path)
        decoded = decode_intact(container, stream, _shortly_before(packets, begin / fps))
        for frame in resample(decoded, packets.timing, begin, count, fps):
            scaler = scaler or scaler_for(frame, stream, size)
            kept.append(scaler(frame))
    if scaler is None:
        raise RejectedError(Reason.TOO_SHORT, f"it has {available} frames at {fps} fps")
    if _alike(kept, kept[0]):
        with open_video(path) as container:
            stream = video_stream(container, path)
            if _alike(map(scaler, decode_intact(container, stream, packets)), kept[0]):
                raise RejectedError(Reason.NO_VIDEO, "all its pictures are the same: none moves")
    return Excerpt(list(kept), scaler.colorspace, fps, available)


def _alike(frames: Iterable[av.VideoFrame], one: av.VideoFrame) -> bool:
    return all(np.array_equal(frame.to_ndarray(), one.to_ndarray()) for frame in frames)


def _shortly_before(packets: Packets, seconds: float) -> Packets:
    """The same packets, decoded from a whole picture before a time on, and not from the first one."""
    if packets.in_decoding_order:
        return packets  # Times do not tell which pictures belong to one that is decoded before them.
    shown = packets.timing.seconds
    first = packets.first
    for number, (time, is_key) in enumerate(zip(packets.times, packets.keys, strict=True)):
        if number > first and is_key and shown.get(time, seconds) <= seconds - _LEAD:
            first = number
    return replace(packets, first=first)
