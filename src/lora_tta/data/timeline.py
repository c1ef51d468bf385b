"""When the pictures of a video are shown: the time stamps of its container, made continuous and even.

Containers differ. Joined recordings start their time again, AVI knows the order of decoding only, raw streams
have no times, clocks jitter. Everything here works on time stamps alone, never on pictures.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

# Seconds that time may go back, and ahead where breaks are usual, before the ffmpeg program sees a break.
_MAX_BACKWARDS = Fraction(1, 10)
MAX_GAP = Fraction(10)
# Containers round time stamps, Matroska to a millisecond: a frame counts as on time up to this, in seconds.
# A little more, since 30 pictures of 29.97 fps take 1.001 s, and a rate that rounded times tell is not exact.
_TIME_TOLERANCE = 1.03e-3
# A rate this near to the target, or below it, loses no frame.
_SAME_RATE = 0.995
# How many pictures H.264 and H.265 may decode before the one that is shown first.
_REORDERED = 16


class Stamp(NamedTuple):
    """The times of a packet in ticks of its stream; ``None`` and a duration of 0 are unknown."""

    shown: int | None
    decoded: int | None
    duration: int
    discarded: bool


@dataclass(frozen=True)
class Timing:
    """When the pictures of a video are shown.

    Attributes:
        num_frames: that are shown.
        frame_interval: seconds per frame on average; the last one is shown for so long.
        seconds: from the first picture, by time stamp.
        even: seconds per frame where they come at a constant rate, apart from jitter and frames left out.
    """

    num_frames: int
    frame_interval: Fraction
    seconds: dict[int, float]
    even: float | None

    def num_resampled(self, fps: int) -> int:
        """How many frames the video has at ``fps``."""
        duration = max(self.seconds.values(), default=0.0) + float(self.frame_interval)
        return math.ceil((duration - self._early(fps)) * fps)

    def slot(self, stamp: int, fps: int) -> int:
        """The first frame at ``fps`` that may show the picture with this time stamp."""
        return max(math.ceil((self.seconds[stamp] - self._early(fps)) * fps), 0)

    def _early(self, fps: int) -> float:
        """How many seconds before its time a picture may be shown, see :func:`resample`."""
        drops_evenly = self.even is not None and self.even * fps < _SAME_RATE
        return _TIME_TOLERANCE if drops_evenly else 1 / (2 * fps)


def timing_of(stamps: Iterable[int], time_base: Fraction) -> Timing:
    """The timing of pictures with these time stamps, in any order.

    Where the times differ from a constant rate by less than half a frame, that rate is meant.
    """
    ordered = sorted(set(stamps))
    if len(ordered) < 2:
        return Timing(len(ordered), Fraction(0), dict.fromkeys(ordered, 0.0), None)
    interval = (ordered[-1] - ordered[0]) * time_base / (len(ordered) - 1)
    ticks = np.array(ordered, float) - ordered[0]
    rate, times = _without_jitter(ticks)
    seconds = dict(zip(ordered, (times * float(time_base)).tolist(), strict=True))
    return Timing(len(ordered), interval, seconds, rate and rate * float(time_base))


def _without_jitter(times: np.ndarray) -> tuple[float | None, np.ndarray]:
    """The constant rate that is meant, and its times; or ``None`` and the times, which ascend from 0."""
    steps = np.diff(times)
    median = np.sort(steps)[len(steps) // 2]
    # More exactly than rounded time stamps tell it one by one.
    typical = steps[np.abs(steps - median) < median / 2].mean()
    without_gaps, with_gaps = np.ones_like(steps), np.maximum(np.rint(steps / typical), 1)

    def fit(steps_in_frames: np.ndarray) -> tuple[float, float, np.ndarray]:
        numbers = np.cumsum([0, *steps_in_frames])
        rate, start = np.polyfit(numbers, times, 1)
        return np.abs(start + rate * numbers - times).max() / rate, rate, numbers

    fits = [fit(with_gaps)]
    if (with_gaps != 1).any():
        fits.append(fit(without_gaps))
    off, rate, numbers = min(fits, key=lambda fitted: fitted[0])
    return (float(rate), rate * numbers) if off < 1 / 2 else (None, times)


def continuous(
    stamps: Iterable[Stamp], time_base: Fraction, interval: Fraction, max_gap: Fraction | None
) -> list[int]:
    """The time stamp of every packet's picture, without breaks.

    Where time goes back in the order of decoding, or ahead by more than ``max_gap``, another recording
    starts. Its first picture follows the last one before.

    Args:
        stamps: in the order of decoding.
        time_base: seconds per tick.
        interval: seconds between pictures that tell no duration.
        max_gap: in seconds; ``None`` allows any gap.
    """
    usual = max(round(interval / time_base), 1)
    times: list[int] = []
    end: int | None = None
    for recording in _recordings(stamps, time_base, usual, max_gap):
        visible = [(shown, duration) for shown, duration, discarded in recording if not discarded]
        visible = visible or [(shown, duration) for shown, duration, _ in recording]
        shift = 0 if end is None else end - min(visible)[0]
        times += [shown + shift for shown, *_ in recording]
        last, duration = max(visible)
        end = last + shift + duration
    return times


def _recordings(
    stamps: Iterable[Stamp], time_base: Fraction, usual: int, max_gap: Fraction | None
) -> Iterator[list[tuple[int, int, bool]]]:
    """Runs of packets without a break: when each is shown, for how long, and whether it is discarded."""
    # Whole ticks: fractions would take most of the time that reading a file's packets does.
    max_backwards = math.floor(_MAX_BACKWARDS / time_base)
    max_ahead = math.inf if max_gap is None else math.floor(max_gap / time_base)
    recording: list[tuple[int, int, bool]] = []
    last: int | None = None
    expected = 0
    for shown, decoded, duration, discarded in stamps:
        if decoded is None and shown is None:
            decoded = expected
        # Packets that an edit list discards lie before its start, and break nothing.
        if decoded is not None and not discarded:
            back = last is not None and last - decoded > max_backwards
            ahead = last is not None and decoded - expected > max_ahead
            if back or ahead:
                yield recording
                recording = []
            last, expected = decoded, decoded + (duration or usual)
        recording.append((decoded or 0 if shown is None else shown, duration or usual, discarded))
    if recording:
        yield recording


def in_order(frames: Iterable[av.VideoFrame], codec: av.VideoCodecContext) -> Iterator[av.VideoFrame]:
    """Give the frames, which the decoder has put in order, their time stamps in ascending order.

    For containers that tell the order of decoding only, so that B-frames come with each other's times.
    """
    waiting: deque[av.VideoFrame] = deque()
    stamps: list[int] = []
    for frame in frames:
        if frame.pts is None:
            yield frame
            continue
        waiting.append(frame)
        heapq.heappush(stamps, frame.pts)
        while len(waiting) > (_REORDERED if codec.has_b_frames else 0):
            waiting[0].pts = heapq.heappop(stamps)
            yield waiting.popleft()
    for frame in waiting:
        frame.pts = heapq.heappop(stamps)
        yield frame


def resample(
    frames: Iterable[av.VideoFrame], timing: Timing, start: int, num_frames: int, fps: int
) -> Iterator[av.VideoFrame]:
    """Frames ``start`` to ``start + num_frames`` of the video at a constant rate; fewer if ``frames`` end.

    A video at an even rate above ``fps`` loses frames: frame k is the one that a player shows at k / fps. Any
    other keeps as many as it can: a picture goes to the frame that is nearest to its time, and is repeated
    until the next one comes.
    """
    index, end = start, start + num_frames
    previous: av.VideoFrame | None = None
    slot = 0
    for frame in frames:
        slot = timing.slot(frame.pts, fps) if frame.pts is not None else slot
        while previous is not None and index < min(slot, end):
            yield previous
            index += 1
        if index == end:
            return
        previous = frame
    last = slot + max(math.ceil(timing.frame_interval * fps), 1)
    while previous is not None and index < min(last, end):
        yield previous
        index += 1
