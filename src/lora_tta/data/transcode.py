"""One raw video to its clips: decode, resample in time, crop, resize, encode.

This is what a worker process runs, so it imports nothing heavier than PyAV and NumPy.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.format import Flags

from lora_tta.data.containers import ends_in_index, is_cut_short, open_video, video_stream
from lora_tta.data.folder import printable
from lora_tta.data.rejection import Reason, RejectedError, Rejection
from lora_tta.data.resolution import Resolution, size_for
from lora_tta.data.scaling import FrameScaler, shape_of
from lora_tta.data.timeline import MAX_GAP, Stamp, Timing, continuous, in_order, resample, timing_of
from lora_tta.data.ucf101 import Source
from lora_tta.data.video import encode_h264
from lora_tta.data.windows import Windows
from lora_tta.files import file_sha256
from lora_tta.records.clips import Cut


@dataclass(frozen=True)
class ClipFormat:
    """The format of the clips.

    Attributes:
        size: height and width in pixels, or the budget from which each video's shape makes them.
        fps: frames per second.
        conditioning_frames: of each window, from its first.
        windows: which frames of a video become clips.
    """

    size: tuple[int, int] | Resolution
    fps: int
    conditioning_frames: int
    windows: Windows


@dataclass(frozen=True)
class Packets:
    """What the packets of a video tell without decoding.

    Attributes:
        times: the time stamp of each packet's picture.
        keys: which packets hold pictures that need no other.
        first: the packet to start at, the first whose picture needs no other.
        in_decoding_order: the times ascend from packet to packet, whatever the order of the pictures.
        timing: of the pictures that are shown.
    """

    times: list[int]
    keys: list[bool]
    first: int
    in_decoding_order: bool
    timing: Timing


def transcode(source: Source, root: Path, output: Path, clip_format: ClipFormat) -> list[Cut] | Rejection:
    """Write ``output/<clip_id>.mp4`` for each window, each atomically, or tell why the source gives no clip.

    The windows are chosen by time stamps alone, never by content. A video gives all of them or none. Errors
    of the output folder are raised.
    """
    relative = printable(source.path.relative_to(root).as_posix())
    cuts: list[Cut] = []
    try:
        packets = read_packets(source.path)
        starts = window_starts(packets.timing, relative, clip_format)
        windows = _decode_windows(source.path, packets, starts, clip_format)
        for number, (start, frames, scaler) in enumerate(windows):
            clip_id = clip_format.windows.clip_id(source.clip_id, number)
            path = output / f"{clip_id}.mp4"
            size = scaler.height, scaler.width
            encode_h264(path, frames, clip_format.fps, *size, scaler.colorspace)
            cuts.append(
                Cut(
                    clip_id=clip_id,
                    class_name=source.class_name,
                    caption=source.caption,
                    source=relative,
                    source_frames=packets.timing.num_frames,
                    source_fps=round(float(1 / packets.timing.frame_interval), 3),
                    window_start=start,
                    window_end=start + clip_format.windows.length,
                    conditioning_frames=clip_format.conditioning_frames,
                    fps=clip_format.fps,
                    height=scaler.height,
                    width=scaler.width,
                    sha256=file_sha256(path),
                    frames_sha256=frames_sha256(frames),
                )
            )
    except RejectedError as rejected:
        for cut in cuts:
            (output / cut.file_name).unlink()
        return Rejection(relative, rejected.reason, rejected.detail)
    return cuts


def frames_sha256(frames: Iterable[av.VideoFrame]) -> str:
    """SHA-256 of the pixels of frames, in hexadecimal digits; neither times nor the colour matrix count."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.to_ndarray().tobytes())
    return digest.hexdigest()


def read_packets(path: Path) -> Packets:
    """Read every packet of a video, but decode none.

    Raises:
        RejectedError: the file cannot be opened, ends early, or has less than two pictures.
    """
    with open_video(path) as container:
        stream = video_stream(container, path)
        stamps, keys = [], []
        for packet in packets_with_data(container, stream):
            stamps.append(Stamp(packet.pts, packet.dts, packet.duration or 0, packet.is_discard))
            keys.append(packet.is_keyframe)
        promised, missing = stream.frames, stream.frames - len(stamps)
        cut_short = (missing > 0 or not promised) and is_cut_short(path)
        if cut_short or ends_in_index(stream, path):
            of_promised = f" of {promised}" if promised else ""
            raise RejectedError(Reason.TRUNCATED, f"the file ends after {len(stamps)}{of_promised} frames")
        time_base = stream.time_base or Fraction(1, 1000)
        interval = 1 / (stream.guessed_rate or stream.average_rate or Fraction(25))
        breaks = bool(Flags(container.format.flags) & Flags.ts_discont)
        times = continuous(stamps, time_base, interval, MAX_GAP if breaks else None)
    first = keys.index(True) if True in keys else 0
    shown = [
        time
        for time, stamp in zip(times[first:], stamps[first:], strict=True)
        if not stamp.discarded and time >= times[first]
    ]
    if len(shown) < 2:
        raise RejectedError(Reason.NO_VIDEO, f"it has {len(shown)} pictures: none moves")
    return Packets(times, keys, first, shown == sorted(shown), timing_of(shown, time_base))


def window_starts(timing: Timing, source: str, clip_format: ClipFormat) -> list[int]:
    """First frame of every window, counted at the target rate."""
    available, length = timing.num_resampled(clip_format.fps), clip_format.windows.length
    starts = clip_format.windows.starts(available, source)
    if not starts:
        at_rate = f"{max(available, 0)} at {clip_format.fps} fps"
        raise RejectedError(Reason.TOO_SHORT, f"{timing.num_frames} frames, {at_rate}: less than {length}")
    return starts


def packets_with_data(container: InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """Without the empty ones of AVI, which say that the picture before stays, and would end the decoding."""
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except IndexError:
        # After the last packet, PyAV looks for streams that have appeared meanwhile, which it does not have.
        return


def _decode_windows(
    path: Path, packets: Packets, starts: list[int], clip_format: ClipFormat
) -> Iterator[tuple[int, list[av.VideoFrame], FrameScaler]]:
    """Each window's start, its cropped and resized frames, and what made them."""
    length, waiting = clip_format.windows.length, deque(starts)
    first, end = starts[0], starts[-1] + length
    scaler: FrameScaler | None = None
    reference: av.VideoFrame | None = None
    scaled: dict[int, av.VideoFrame] = {}
    moves = False
    with open_video(path) as container:
        stream = video_stream(container, path)
        decoded = decode_intact(container, stream, packets)
        resampled = resample(decoded, packets.timing, first, end - first, clip_format.fps)
        for number, frame in enumerate(resampled, first):
            if number < waiting[0]:
                continue
            scaler = scaler or scaler_for(frame, stream, clip_format.size)
            scaled[number] = scaler(frame)
            reference = reference or scaled[number]
            moves = moves or not _alike(scaled[number], reference)
            if number + 1 == waiting[0] + length:
                start = waiting.popleft()
                yield start, [scaled[index] for index in range(start, start + length)], scaler
                for index in range(start, min(waiting[0] if waiting else end, start + length)):
                    del scaled[index]
        if waiting or scaler is None or reference is None:
            seen = waiting[0] - first + len(scaled)
            raise RejectedError(Reason.UNREADABLE, f"decoding ends after {seen} of {end - first} frames")
        # Only where nothing moves in the windows, the rest of the file is decoded.
        if not moves and all(_alike(frame, reference) for frame in map(scaler, decoded)):
            raise RejectedError(Reason.NO_VIDEO, "all its pictures are the same: none moves")


def scaler_for(
    frame: av.VideoFrame, stream: av.VideoStream, size: tuple[int, int] | Resolution
) -> FrameScaler:
    """What scales the frames of a video, of which one is given, to a size, or to that of its shape."""
    pixel_aspect = stream.sample_aspect_ratio
    if isinstance(size, str):
        size = size_for(size, shape_of(frame, pixel_aspect))
    return FrameScaler(frame, pixel_aspect, *size)


def _alike(one: av.VideoFrame, other: av.VideoFrame) -> bool:
    return np.array_equal(one.to_ndarray(), other.to_ndarray())


def decode_intact(
    container: InputContainer, stream: av.VideoStream, packets: Packets
) -> Iterator[av.VideoFrame]:
    """The frames in the order in which they are shown, with the time stamps of ``packets``.

    Raises:
        RejectedError: a frame is damaged, or has no time.
    """
    frames = _decoded_in_any_order(container, stream, packets)
    # Frames to be shown before the first whole one lack what they refer to.
    start = packets.times[packets.first]
    frames = (frame for frame in frames if frame.pts is None or frame.pts >= start)
    if packets.in_decoding_order:
        frames = in_order(frames, stream.codec_context)
    last = start
    for number, frame in enumerate(frames):
        if frame.is_corrupt:
            raise RejectedError(Reason.UNREADABLE, f"frame {number} is damaged")
        if frame.pts is None or frame.pts < last or frame.pts not in packets.timing.seconds:
            raise RejectedError(Reason.BAD_TIMES, f"frame {number} has no time, or an earlier one")
        last = frame.pts
        yield frame


def _decoded_in_any_order(
    container: InputContainer, stream: av.VideoStream, packets: Packets
) -> Iterator[av.VideoFrame]:
    for packet, time in islice(
        zip(packets_with_data(container, stream), packets.times, strict=False), packets.first, None
    ):
        packet.pts = time
        yield from packet.decode()
    yield from stream.codec_context.decode(None)
