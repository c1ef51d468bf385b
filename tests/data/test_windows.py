"""Windows lie where they should, inside the video, whatever its length."""

import random
from itertools import pairwise

import pytest

from lora_tta.data.windows import Windows


@pytest.mark.parametrize(
    ("place", "count", "stride", "num_frames", "starts"),
    [
        ("first", 1, None, 65, [0]),
        ("first", 1, None, 64, []),
        ("middle", 1, None, 95, [15]),
        ("first", 3, None, 300, [0, 65, 130]),
        ("first", 3, None, 194, [0, 65]),
        ("first", 3, 10, 300, [0, 10, 20]),
        ("first", 2, 100, 300, [0, 100]),
        ("middle", 3, 10, 185, [50, 60, 70]),
        ("middle", 3, None, 131, [0, 65]),
    ],
)
def test_windows_follow_each_other_as_far_as_the_video_has_room(place, count, stride, num_frames, starts):
    assert Windows(65, place, count, stride, seed=0).starts(num_frames, "a.mp4") == starts


@pytest.mark.parametrize("seed", range(100))
def test_every_window_is_whole_and_all_lie_as_one(seed):
    generator = random.Random(seed)
    length, stride = 4 * generator.randint(1, 30) + 1, generator.choice([None, generator.randint(1, 200)])
    count, num_frames = generator.randint(1, 9), generator.randint(1, 2000)
    for place in ("first", "middle", "random"):
        starts = Windows(length, place, count, stride, seed).starts(num_frames, "a.mp4")
        assert bool(starts) == (num_frames >= length)
        assert len(starts) <= count
        assert all(later - earlier == (stride or length) for earlier, later in pairwise(starts))
        assert all(0 <= start <= num_frames - length for start in starts)


def test_a_random_place_is_that_of_the_seed_and_the_video():
    places = {
        (seed, name): Windows(65, "random", 1, None, seed).starts(10_000, name)[0]
        for seed in range(3)
        for name in ("a.mp4", "b.mp4")
    }
    assert len(set(places.values())) == 6
    assert Windows(65, "random", 1, None, 2).starts(10_000, "b.mp4") == [places[2, "b.mp4"]]


def test_random_places_are_spread_over_the_whole_video():
    starts = [Windows(65, "random", 1, None, 0).starts(74, str(name))[0] for name in range(300)]
    assert set(starts) == set(range(10))


def test_ids_of_windows_tell_them_apart():
    assert Windows(65, "first", 1, None, 0).clip_id("a", 0) == "a"
    assert [Windows(65, "first", 2, None, 0).clip_id("a", number) for number in range(2)] == ["a-w1", "a-w2"]
