"""What holds for any times, orientations and names, tried on many that are drawn."""

import itertools
import math
import random
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lora_tta.data.folder import printable
from lora_tta.data.scaling import nearest_orientation
from lora_tta.data.timeline import MAX_GAP, Stamp, continuous, timing_of
from lora_tta.data.ucf101 import MAX_ID_BYTES, name_sources

TIME_BASES = [Fraction(1, base) for base in (600, 1000, 12800, 90000, 1000000)]
ALPHABETS = [
    "abc",
    "aAbB",
    "äöüß",
    "漢字かな",
    "\u0430\u0431",
    "ابج",
    "🎬👍🏽",
    " '\"&;$`\\",
    "[]{}()#%:~*?!",
    "0123456789",
    "\n\t\x7f",
    "e\u0301",
]
UNITS = [1 << 16, 1, 30000, (1 << 31) - 1]


@pytest.mark.parametrize("seed", range(100))
def test_recordings_at_any_rate_with_jitter_and_jumps_become_one(seed):
    """Joined wherever time goes back, or ahead by more than breaks do, with B-frames or without."""
    generator = random.Random(seed)
    rate = Fraction(generator.choice([5, 12, 24, 25, 30, 50, 60, 120])) * generator.choice(
        [1, Fraction(1000, 1001)]
    )
    time_base = generator.choice(TIME_BASES)
    step = 1 / rate / time_base
    jitter = int(step / 5) if generator.random() < 0.5 else 0
    stamps, begin = [], 0
    lengths = [generator.randint(30, 60) for _ in range(generator.randint(1, 5))]
    for length in lengths:
        times = [begin + round(n * step) + generator.randint(-jitter, jitter) for n in range(length)]
        order = list(range(length))
        if generator.random() < 0.5:  # decoded as I P B P B, shown two frames later
            order = [
                0,
                *(m for n in range(2, length, 2) for m in (n, n - 1)),
                *([length - 1] if length % 2 == 0 else []),
            ]
        decoded = [begin + round((n - 2) * step) for n in range(length)]
        stamps += [
            Stamp(times[shown], when, round(step), False) for shown, when in zip(order, decoded, strict=True)
        ]
        end = begin + round(length * step)
        ahead = round((MAX_GAP + generator.randint(1, 3600)) / time_base)
        begin = generator.choice([0, generator.randint(0, 10**6), end + ahead])
        if -1 < (begin - end) * time_base <= MAX_GAP:  # no break
            begin = end + ahead
    times = sorted(continuous(stamps, time_base, 1 / rate, MAX_GAP))
    assert len(times) == sum(lengths)
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(steps) >= math.floor(step) - 2 * jitter - 1
    assert max(steps) <= math.ceil(step) + 2 * jitter + 2
    timing = timing_of(times, time_base)
    assert timing.even == pytest.approx(float(1 / rate), rel=0.01)
    assert abs(timing.num_resampled(24) - sum(lengths) / rate * 24) <= 2 + len(lengths)


@pytest.mark.parametrize("seed", range(100))
def test_a_matrix_near_one_of_the_eight_orientations_is_taken_for_it(seed):
    """Each of them, at any scale, off by up to forty degrees; compared by where a picture's corners go."""
    generator = random.Random(seed)
    for turned, flipped in itertools.product(range(4), (False, True)):
        angle = math.radians(90 * turned + generator.uniform(-40, 40))
        scale = generator.choice(UNITS) * 0.9
        a, b, c, d = (
            scale * value for value in (math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle))
        )
        if flipped:
            a, b = -a, -b
        if max(map(abs, (a, b, c, d))) < 2:
            a, b, c, d = (1000 * value for value in (a, b, c, d))
        orientation = nearest_orientation(*map(round, (a, b, c, d)))
        picture = np.arange(4).reshape(2, 2)
        shown = picture.T if orientation.transposed else picture
        shown = shown[:, ::-1] if orientation.mirrored else shown
        shown = shown[::-1] if orientation.upside_down else shown
        exact = math.radians(90 * turned)
        columns = np.array([[math.cos(exact), -math.sin(exact)], [math.sin(exact), math.cos(exact)]]).round()
        if flipped:
            columns[:, 0] *= -1
        for row, column in itertools.product(range(2), repeat=2):
            x, y = columns @ (2 * column - 1, 2 * row - 1)
            assert shown[int(y > 0), int(x > 0)] == picture[row, column]


def drawn_name(generator: random.Random) -> str:
    """Up to 255 bytes of a few alphabets."""
    alphabet = "".join(generator.sample(ALPHABETS, generator.randint(1, 3)))
    name = "".join(generator.choice(alphabet) for _ in range(generator.choice([1, 3, 20, 250])))
    ending = generator.choice([".mp4", ".MP4", ".webm", ""])
    return (
        name.replace("/", "").encode()[: 255 - len(ending)].decode(errors="ignore").strip(".") + ending or "a"
    )


@pytest.mark.parametrize("seed", range(50))
def test_any_names_give_ids_that_differ_and_fit_into_names_of_files(seed):
    generator = random.Random(seed)
    root = Path("/data")
    names = {f"{drawn_name(generator)}/{drawn_name(generator)}" for _ in range(30)}
    names |= {drawn_name(generator) for _ in range(30)} | {"null", "~", "007", "CON", "a:b", "-rf"}
    paths = [root / name for name in sorted(names)]
    ids = [source.clip_id for source in name_sources(paths, root)]
    assert len({clip_id.casefold() for clip_id in ids}) == len(paths)
    assert all(re.fullmatch(r"[\w.-]+", clip_id) for clip_id in ids)
    assert max(len(clip_id.encode()) for clip_id in ids) <= MAX_ID_BYTES + len("-99")
    assert ids == [source.clip_id for source in name_sources(paths, root)]


@pytest.mark.parametrize("seed", range(50))
def test_names_of_any_bytes_can_be_written(seed):
    generator = random.Random(seed)
    name = bytes(generator.choice([*range(1, 47), *range(48, 256)]) for _ in range(255))
    text = printable(name.decode("utf-8", "surrogateescape"))
    assert text.encode("utf-8").decode() == text
