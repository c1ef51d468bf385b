"""One raw video to one 65-frame clip: decode, resample in time, crop, resize, encode.

This is what a worker process runs, so it imports nothing heavier than PyAV and NumPy.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
from av.stream import Disposition

from lora_tta.data.containers import is_cut_short
from lora_tta.data.scaling import FrameScaler
from lora_tta.data.ucf101 import Source, caption_of
from lora_tta.data.video import encode_h264
from lora_tta.files import file_sha256
from lora_tta.records.clips import NUM_FRAMES, Cut

# Containers round time stamps, Matroska to a millisecond: a frame counts as on time up to this.
_TIME_TOLERANCE = Fraction(1, 1000)
# A whole AVI may lack some of the frames it promises: encoders leave those out that repeat the one before.
_LEFT_OUT_TOLERANCE = 0.1


class Reason(StrEnum):
    """Why a raw video gives no clip."""

    TOO_SHORT = "too_short"  # intact, but less than 65 frames at the target rate
    TRUNCATED = "truncated"  # the file ends before the frames its container promises, wherever the window is
    UNREADABLE = "unreadable"  # cannot be opened, or not decoded without errors up to the window's end
    NO_VIDEO = "no_video"  # opens, but holds no moving pictures


@dataclass(frozen=True)
class Rejection:
    """A raw video that gave no clip; ``source`` is relative to the data root."""

    source: str
    reason: Reason
    detail: str


@dataclass(frozen=True)
class ClipFormat:
    """The format of the clips: size in pixels, rate in frames per second, and the part of a longer video."""

    height: int
    width: int
    fps: int
    window: Literal["first", "middle"]


@dataclass(frozen=True)
class Timing:
    """The timing of a video, from its packets alone: frames, and seconds per frame on average."""

    num_frames: int
    frame_interval: Fraction

    def num_resampled(self, fps: int) -> int:
        """How many frames the video has at ``fps``."""
        return math.ceil((self.num_frames * self.frame_interval - _TIME_TOLERANCE) * fps)


class _RejectedError(Exception):
    def __init__(self, reason: Reason, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def transcode(source: Source, root: Path, output: Path, clip_format: ClipFormat) -> Cut | Rejection:
    """Write ``output/<clip_id>.mp4`` atomically, or tell why the source cannot give a clip.

    The window is chosen by time stamps alone, never by content. Errors of the output folder are raised.
    """
    relative = source.path.relative_to(root).as_posix()
    try:
        timing = read_timing(source.path)
        start = window_start(timing, clip_format)
        frames, colorspace = _decode_window(source.path, timing, start, clip_format)
    except _RejectedError as rejected:
        return Rejection(relative, rejected.reason, rejected.detail)
    path = output / f"{source.clip_id}.mp4"
    encode_h264(path, frames, clip_format.fps, clip_format.height, clip_format.width, colorspace)
    return Cut(
        clip_id=source.clip_id,
        class_name=source.class_name,
        caption=caption_of(source.class_name),
        source=relative,
        source_frames=timing.num_frames,
        source_fps=round(float(1 / timing.frame_interval), 3),
        window_start=start,
        window_end=start + NUM_FRAMES,
        fps=clip_format.fps,
        height=clip_format.height,
        width=clip_format.width,
        sha256=file_sha256(path),
        frames_sha256=frames_sha256(frames),
    )


def frames_sha256(frames: Iterable[av.VideoFrame]) -> str:
    """SHA-256 of the pixels of frames, in hexadecimal digits; neither times nor the colour matrix count."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.to_ndarray().tobytes())
    return digest.hexdigest()


def read_timing(path: Path) -> Timing:
    """Count a video's frames and their mean interval, reading every packet but decoding none."""
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            stream = _video_stream(container)
            promised, rate = stream.frames, stream.average_rate
            time_base = stream.time_base
            num_packets, corrupt, times = 0, False, []
            for packet in container.demux(stream):
                # AVI with B-frames has decoding times only; the packet that ends the stream has no time.
                time = packet.pts if packet.pts is not None else packet.dts
                if time is None:
                    continue
                num_packets += 1
                corrupt = corrupt or packet.is_corrupt
                if not packet.is_discard:
                    times.append(time)
    except (av.FFmpegError, OSError) as error:
        raise _opening_failure(path, error) from None
    missing = promised - num_packets
    cut_short = (missing > 0 or not promised) and is_cut_short(path)
    if corrupt or cut_short or missing > _LEFT_OUT_TOLERANCE * promised:
        of_promised = f" of {promised}" if promised else ""
        raise _RejectedError(Reason.TRUNCATED, f"the file ends after {num_packets}{of_promised} frames")
    if len(times) < 2:
        interval = 1 / rate if rate else Fraction(0)
    else:
        interval = (max(times) - min(times)) * time_base / (len(times) - 1)
    return Timing(len(times), interval)


def window_start(timing: Timing, clip_format: ClipFormat) -> int:
    """First frame of the window, counted at the target rate."""
    available = timing.num_resampled(clip_format.fps)
    if available < NUM_FRAMES:
        at_rate = f"{max(available, 0)} at {clip_format.fps} fps"
        raise _RejectedError(
            Reason.TOO_SHORT, f"{timing.num_frames} frames, {at_rate}: less than {NUM_FRAMES}"
        )
    return 0 if clip_format.window == "first" else (available - NUM_FRAMES) // 2


def resample(
    frames: Iterable[av.VideoFrame], timing: Timing, start: int, num_frames: int, fps: int
) -> Iterator[av.VideoFrame]:
    """Frames ``start`` to ``start + num_frames`` of the video at a constant rate.

    Frame k is the latest source frame whose time, counted from the first one, is not after k / fps: a higher
    rate drops frames, a lower one repeats them, and no frame is shown before its time.
    """
    index, end = start, start + num_frames
    origin: Fraction | None = None
    previous: av.VideoFrame | None = None
    last_time = Fraction(0)
    for frame in frames:
        time = _time_of(frame)
        origin = time if origin is None else origin
        while previous is not None and index < end and Fraction(index, fps) + _TIME_TOLERANCE < time - origin:
            yield previous
            index += 1
        if index == end:
            return
        previous, last_time = frame, time
    while previous is not None and origin is not None and index < end:
        if Fraction(index, fps) + _TIME_TOLERANCE >= last_time - origin + timing.frame_interval:
            return
        yield previous
        index += 1


def _time_of(frame: av.VideoFrame) -> Fraction:
    """Presentation time in seconds."""
    if frame.pts is None or frame.time_base is None:
        raise ValueError("a frame has no time stamp")
    return frame.pts * frame.time_base


def _decode_window(
    path: Path, timing: Timing, start: int, clip_format: ClipFormat
) -> tuple[list[av.VideoFrame], int]:
    """The cropped and resized frames of the window, and their colour matrix."""
    scaler, scaled = None, []
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            stream = _video_stream(container)
            stream.codec_context.thread_count = 1  # the processes are parallel already
            decoded = _intact_frames(container.decode(stream))
            for frame in resample(decoded, timing, start, NUM_FRAMES, clip_format.fps):
                if scaler is None:
                    size = clip_format.height, clip_format.width
                    scaler = FrameScaler(frame, stream.sample_aspect_ratio, *size)
                scaled.append(scaler(frame))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _RejectedError(Reason.UNREADABLE, _one_line(error)) from None
    if scaler is None or len(scaled) < NUM_FRAMES:
        raise _RejectedError(Reason.UNREADABLE, f"decoding ends after {len(scaled)} of {NUM_FRAMES} frames")
    return scaled, scaler.colorspace


def _intact_frames(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    for number, frame in enumerate(frames):
        if frame.is_corrupt:
            raise _RejectedError(Reason.UNREADABLE, f"frame {number} is damaged")
        if frame.pts is None:
            raise _RejectedError(Reason.UNREADABLE, f"frame {number} has no time stamp")
        yield frame


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first one that moves: cover art is a video stream too, and a file may hold several renditions."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    if is_cut_short(Path(container.name)):
        raise _RejectedError(Reason.TRUNCATED, "the file ends within its index")
    raise _RejectedError(Reason.NO_VIDEO, "there is no video stream")


def _opening_failure(path: Path, error: Exception) -> _RejectedError:
    try:
        cut_short = is_cut_short(path)
    except OSError:
        cut_short = False
    if cut_short:
        return _RejectedError(Reason.TRUNCATED, "the file ends before its index or its first frame")
    return _RejectedError(Reason.UNREADABLE, _one_line(error))


def _one_line(error: Exception) -> str:
    # FFmpeg's own words, without the path of the file on this machine.
    return " ".join((getattr(error, "strerror", None) or str(error)).split())
