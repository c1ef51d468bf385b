"""Which clips are for the search: random data sets of UCF-101 names, other names, windows and copies."""

import itertools
import random
from collections import Counter, defaultdict

import pytest

from lora_tta.data.split import draw_split, groups_of, split_as_listed
from lora_tta.records.clips import Clip, Cut


def cut(source: str, class_name: str, frames: str | None = None, clip_id: str | None = None) -> Cut:
    clip_id = clip_id or source.rpartition("/")[2].partition(".")[0]
    return Cut(
        clip_id=clip_id,
        class_name=class_name,
        caption=class_name.lower(),
        source=source,
        source_frames=100,
        source_fps=25.0,
        window_start=0,
        window_end=65,
        conditioning_frames=33,
        fps=24,
        height=32,
        width=48,
        sha256=f"file of {clip_id}",
        frames_sha256=frames or f"frames of {clip_id}",
    )


def ucf(class_name: str, group: int, number: int = 1, frames: str | None = None) -> Cut:
    return cut(f"{class_name}/v_{class_name}_g{group:02}_c{number:02}.avi", class_name, frames)


def data_set(**classes: list[int]) -> list[Cut]:
    """``Archery=[2, 1]`` is a class with a group of two clips and a group of one."""
    return [
        ucf(name, group, number)
        for name, sizes in classes.items()
        for group, size in enumerate(sizes, start=1)
        for number in range(1, size + 1)
    ]


def random_data_set(generator: random.Random) -> list[Cut]:
    """UCF-101 clips, own videos with one or more windows, and copies of some frames, in a random order."""
    cuts = []
    for class_name in ["Archery", "Biking", "Diving", "Golf"][: generator.randint(1, 4)]:
        sizes = [generator.randint(1, 3) for _ in range(generator.randint(0, 4))]
        cuts += data_set(**{class_name: sizes})
        for video in range(generator.randint(0, 3)):
            cuts += [
                cut(f"{class_name}/own{video}.mp4", class_name, clip_id=f"{class_name}-own{video}-{window}")
                for window in range(generator.randint(1, 3))
            ]
    for copy in range(generator.choice([0, 0, 1, 3]) if cuts else 0):
        original = generator.choice(cuts)
        class_name = generator.choice([original.class_name, "Copies"])
        cuts.append(cut(f"{class_name}/copy{copy}.mkv", class_name, original.frames_sha256))
    return generator.sample(cuts, len(cuts))


def searched(clips: list[Clip]) -> list[str]:
    return sorted(clip.clip_id for clip in clips if clip.split == "search")


def per_class(clips: list[Clip]) -> dict[str, int]:
    """Number of clips for the search, of every class."""
    counts = dict.fromkeys(sorted({clip.class_name for clip in clips}), 0)
    return counts | Counter(clip.class_name for clip in clips if clip.split == "search")


def shared(one: Cut, other: Cut) -> bool:
    """Whether two clips show the same footage, as the definition has it."""
    both_ucf = "/v_" in one.source and "/v_" in other.source
    same_group = both_ucf and one.source.rpartition("_c")[0] == other.source.rpartition("_c")[0]
    return same_group or one.source == other.source or one.frames_sha256 == other.frames_sha256


def test_no_footage_is_in_both_parts_and_every_clip_is_in_one():
    for seed in range(150):
        generator = random.Random(seed)
        cuts = random_data_set(generator)
        clips = draw_split(cuts, generator.randint(1, 12), seed)
        assert sorted(clip.clip_id for clip in clips) == sorted(cut.clip_id for cut in cuts)
        for one, other in itertools.combinations(clips, 2):
            if shared(one, other):
                assert (one.group, one.split) == (other.group, other.split)
            if one.group == other.group:
                assert one.split == other.split


def test_the_number_is_the_nearest_one_that_whole_groups_have():
    for seed in range(150):
        generator = random.Random(seed)
        cuts = random_data_set(generator)
        wanted = generator.randint(1, 12)
        drawn = len(searched(draw_split(cuts, wanted, seed)))
        possible = {0}
        for group in groups_of(cuts):
            possible |= {number + len(group) for number in possible}
        possible -= {0, len(cuts)}
        assert drawn == min(possible, key=lambda number: (abs(number - wanted), number), default=0)


def test_the_classes_are_as_even_as_whole_groups_can_make_them():
    """Compared with every choice of groups that has the same number of clips."""
    for seed in range(100):
        generator = random.Random(seed)
        names = ["Archery", "Biking", "Diving", "Golf"][: generator.randint(2, 4)]
        cuts = data_set(
            **{name: [generator.randint(1, 3) for _ in range(generator.randint(1, 3))] for name in names}
        )
        clips = draw_split(cuts, generator.randint(1, len(cuts) - 1), seed)
        drawn = per_class(clips)

        groups = groups_of(cuts)
        choices = []
        for chosen in itertools.product([False, True], repeat=len(groups)):
            counts = dict.fromkeys(names, 0)
            for group, taken in zip(groups, chosen, strict=True):
                counts[group[0].class_name] += taken * len(group)
            if sum(counts.values()) == sum(drawn.values()):
                choices.append(list(counts.values()))
        if any(max(counts) - min(counts) <= 1 for counts in choices):
            assert max(drawn.values()) - min(drawn.values()) <= 1
        assert sum(count**2 for count in drawn.values()) == min(
            sum(count**2 for count in counts) for counts in choices
        )


def test_classes_with_single_clips_differ_by_at_most_one():
    for seed in range(10):
        cuts = data_set(Archery=[1] * 9, Biking=[1] * 5, Diving=[1] * 7)
        assert sorted(per_class(draw_split(cuts, 10, seed)).values()) == [3, 3, 4]


def test_a_small_class_leaves_its_share_to_the_others():
    counts = per_class(draw_split(data_set(Archery=[1], Biking=[1] * 9, Diving=[1] * 9), 9, seed=0))
    assert counts == {"Archery": 1, "Biking": 4, "Diving": 4}


def test_the_order_of_the_clips_changes_nothing():
    for seed in range(30):
        generator = random.Random(seed)
        cuts = random_data_set(generator)
        other_order = generator.sample(cuts, len(cuts))
        assert draw_split(cuts, 4, seed) == draw_split(other_order, 4, seed)


def test_the_seed_draws_among_classes_and_groups():
    cuts = data_set(Archery=[1] * 4, Biking=[1] * 4, Diving=[1] * 4)
    drawn = [searched(draw_split(cuts, 2, seed)) for seed in range(200)]
    times = Counter(clip_id for clip_ids in drawn for clip_id in clip_ids)
    assert times.keys() == {each.clip_id for each in cuts}
    assert max(times.values()) < 3 * min(times.values())


def test_copies_tie_their_groups_together():
    """A copy of g01 lies in g02, and a copy of that in a folder of another class."""
    cuts = [
        *data_set(Archery=[2, 1, 1]),
        ucf("Archery", 2, 9, frames="frames of v_Archery_g01_c02"),
        cut("Misc/film.mp4", "Misc", frames="frames of v_Archery_g02_c01"),
    ]
    clips = {clip.clip_id: clip for clip in draw_split(cuts, 1, seed=0)}
    assert {clip.group for clip in clips.values()} == {"Archery/g01", "Archery/g03"}
    assert {clip_id for clip_id, clip in clips.items() if clip.group == "Archery/g03"} == {
        "v_Archery_g03_c01"
    }
    assert searched(list(clips.values())) == ["v_Archery_g03_c01"]


def test_a_group_is_of_a_class_and_is_read_from_names_in_any_folder_and_case():
    cuts = [
        ucf("Archery", 1),
        ucf("Biking", 1),
        cut("more/v_Archery_g01_c02.avi", "Archery"),
        cut("v_archery_g1_c03.avi", "archery"),
    ]
    members = defaultdict(set)
    for clip in draw_split(cuts, 1, seed=0):
        members[clip.group].add(clip.clip_id[-7:])
    assert members == {"Archery/g01": {"g01_c01", "g01_c02", "_g1_c03"}, "Biking/g01": {"g01_c01"}}


def test_windows_of_one_video_stay_together():
    windows = [cut("film.mp4", "film", clip_id=f"film-{start}") for start in (0, 65, 130)]
    clips = draw_split([*windows, cut("other.mp4", "other")], 3, seed=0)
    assert searched(clips) == ["film-0", "film-130", "film-65"]
    assert {clip.group for clip in clips} == {"film.mp4", "other.mp4"}


@pytest.mark.parametrize("cuts", [[], data_set(Archery=[1]), data_set(Archery=[5])])
def test_a_single_group_is_for_the_test(cuts):
    clips = draw_split(cuts, 2, seed=0)
    assert len(clips) == len(cuts)
    assert not searched(clips)


def test_the_search_never_takes_all_groups_and_never_none_of_two():
    assert len(searched(draw_split(data_set(Archery=[1] * 5), 9, seed=0))) == 4
    assert len(searched(draw_split(data_set(Archery=[4, 5]), 1, seed=0))) == 4


def test_a_large_data_set_takes_a_moment():
    """All of UCF-101: 101 classes of 25 groups, each of 4 to 7 clips."""
    generator = random.Random(0)
    sizes = {f"Class{number:03}": [generator.randint(4, 7) for _ in range(25)] for number in range(101)}
    clips = draw_split(data_set(**sizes), 4000, seed=0)
    counts = per_class(clips).values()
    assert (sum(counts), max(counts) - min(counts)) == (4000, 1)


def test_lists_make_the_split():
    search, test = data_set(Archery=[2], Biking=[1]), [ucf("Archery", 2), cut("own.mp4", "own")]
    clips = split_as_listed(search, test)
    assert searched(clips) == sorted(each.clip_id for each in search)
    assert {clip.group for clip in clips} == {"Archery/g01", "Biking/g01", "Archery/g02", "own.mp4"}


def test_lists_that_divide_a_group_are_refused():
    with pytest.raises(ValueError, match=r"g01_c01\.avi and .*g01_c02\.avi show the same footage"):
        split_as_listed([ucf("Archery", 1, 1)], [ucf("Archery", 1, 2)])
    with pytest.raises(ValueError, match="show the same footage"):
        split_as_listed([ucf("Archery", 1, frames="equal")], [ucf("Biking", 1, frames="equal")])
