"""Times of any kind become continuous and even."""

import itertools
import random
from fractions import Fraction
from types import SimpleNamespace

import pytest

from lora_tta.data.timeline import Stamp, continuous, in_order, resample, timing_of

MILLISECOND = Fraction(1, 1000)
RATES = [1, 5, 12, 15, Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30, 50, 60, 120]


def frames_at(stamps: list[int]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pts=stamp) for stamp in stamps]


def shown(stamps: list[int], time_base: Fraction, num_frames: int) -> list[int]:
    """Which pictures the frames at 24 fps show, by their numbers."""
    timing = timing_of(stamps, time_base)
    frames = frames_at(stamps)
    return [frames.index(frame) for frame in resample(frames, timing, 0, num_frames, 24)]


def stamps_of(decoded: list[int], duration: int = 0, delay: int = 0) -> list[Stamp]:
    return [Stamp(time + delay, time, duration, False) for time in decoded]


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("time_base", [MILLISECOND, Fraction(1, 90000)])
def test_even_rates_keep_or_drop_or_repeat_evenly(fps, time_base):
    stamps = [round(n / Fraction(fps) / time_base) + 777 for n in range(4 * 120)]
    timing = timing_of(stamps, time_base)
    assert timing.even == pytest.approx(float(1 / Fraction(fps)), rel=1e-4)
    numbers = shown(stamps, time_base, 65)
    steps = {later - earlier for earlier, later in itertools.pairwise(numbers)}
    per_frame = Fraction(fps) / 24
    assert steps <= {int(per_frame), int(per_frame) + 1}
    if per_frame > Fraction(995, 1000):
        assert 0 not in steps
    wanted = [float(k * per_frame) for k in range(65)]
    assert all(abs(number - place) <= 1.001 for number, place in zip(numbers, wanted, strict=True))


@pytest.mark.parametrize("fps", [24, 25, Fraction(30000, 1001), 30, 60])
@pytest.mark.parametrize("seed", range(20))
def test_jitter_of_a_quarter_of_a_frame_repeats_nothing(seed, fps):
    generator = random.Random(seed)
    jitter = int(1000 / fps / 4)
    stamps = [round(1000 * n / Fraction(fps)) + generator.randint(-jitter, jitter) for n in range(200)]
    numbers = shown(sorted(stamps), MILLISECOND, 65)
    assert numbers == sorted(set(numbers))
    assert all(abs(number - k * float(fps) / 24) < 1.5 for k, number in enumerate(numbers))


@pytest.mark.parametrize("seed", range(50))
def test_jitter_neither_repeats_nor_drops_where_the_rate_is_that_of_the_clip(seed):
    generator = random.Random(seed)
    stamps = [round(1000 * n / 24) + generator.randint(-4, 4) for n in range(100)]
    assert shown(sorted(stamps), MILLISECOND, 65) == list(range(65))


@pytest.mark.parametrize("seed", range(200))
def test_no_picture_is_far_from_its_time_and_none_goes_back(seed):
    """Any times whatever: what is shown is the nearest picture, or at an even rate the one before."""
    generator = random.Random(seed)
    stamps = [generator.randint(0, 1000)]
    for _ in range(150):
        stamps.append(stamps[-1] + generator.choice([1, 10, 33, 33, 33, 40, 42, 100, 700]))
    timing = timing_of(stamps, MILLISECOND)
    num_frames = timing.num_resampled(24)
    numbers = shown(stamps, MILLISECOND, num_frames)
    assert len(numbers) == num_frames
    assert numbers == sorted(numbers)
    times = [(stamp - stamps[0]) / 1000 for stamp in stamps]
    for k, number in enumerate(numbers):
        later = [time for time in times if time > times[number]]
        assert times[number] <= k / 24 + 1 / 48 + 1e-6
        assert not later or later[0] > k / 24 + 1 / 48 - 1e-6


@pytest.mark.parametrize("left_out", [range(10, 20), range(50, 51), [12, 40, 41, 77]])
def test_frames_left_out_of_an_even_rate_leave_the_others_in_place(left_out):
    kept = [n for n in range(100) if n not in left_out]
    numbers = [kept[number] for number in shown([40 * n for n in kept], MILLISECOND, 65)]
    assert numbers == [max(n for n in kept if n <= k * 25 // 24) for k in range(65)]


def test_recordings_follow_each_other_however_often_time_starts_again():
    one = stamps_of([100 + 40 * n for n in range(10)], 40, delay=80)
    assert continuous(3 * one, MILLISECOND, Fraction(1, 25), None) == [180 + 40 * n for n in range(30)]


def test_a_jump_ahead_is_closed_where_breaks_are_usual_and_kept_elsewhere():
    stamps = stamps_of([0, 40, 80, 60_000, 60_040], 40)
    assert continuous(stamps, MILLISECOND, Fraction(1, 25), Fraction(10)) == [0, 40, 80, 120, 160]
    assert continuous(stamps, MILLISECOND, Fraction(1, 25), None) == [0, 40, 80, 60_000, 60_040]


def test_pictures_without_times_come_at_the_rate_of_the_stream():
    stamps = [Stamp(None, None, 0, False)] * 5
    assert continuous(stamps, MILLISECOND, Fraction(1, 25), None) == [0, 40, 80, 120, 160]


def test_packets_before_the_start_of_an_edit_break_nothing():
    edited = [Stamp(40 * n, 40 * n, 40, n < 0) for n in [0, 1, 2, 3]]
    before_next = [Stamp(40 * n, 40 * n, 40, True) for n in [-20, -19]]
    times = continuous(
        [*edited, *before_next, Stamp(160, 160, 40, False)], MILLISECOND, Fraction(1, 25), None
    )
    assert times == [0, 40, 80, 120, -800, -760, 160]


@pytest.mark.parametrize("seed", range(20))
def test_times_in_the_order_of_decoding_are_given_out_in_the_order_of_pictures(seed):
    generator = random.Random(seed)
    numbers = list(range(100))
    for start in range(0, 100, 5):
        part = numbers[start : start + 5]
        generator.shuffle(part)
        numbers[start : start + 5] = part
    ordered = in_order(frames_at(numbers), SimpleNamespace(has_b_frames=True))
    assert [frame.pts for frame in ordered] == list(range(100))
