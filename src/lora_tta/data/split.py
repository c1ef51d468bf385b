"""Which clips are for the search and which for the test: whole groups of clips that show the same footage.

Clips are of one group if they share

- the group of a class in their UCF-101 names, see :func:`~lora_tta.data.ucf101.group_of`;
- the source, so windows of one video stay together;
- the frames. ``Cut.frames_sha256`` is of the frames as they go to the encoder: in time, cropped and
  resized. Equal files give equal frames, so the hash finds them under any name. It also finds the same
  pictures in another container, with other sound or with other frames beyond the window, which a hash of the
  files would miss.

Sharing is transitive: a copy of one clip of a group, filed under another class, ties both groups together.
The same footage encoded anew by a lossy codec has other frames, and is found by its name alone.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import PurePath, PurePosixPath

import numpy as np

from lora_tta.data.ucf101 import group_of
from lora_tta.records.clips import Clip, Cut, Split

Group = list[Cut]

# More than any sum of squares, and far from the end of 64 bits.
_IMPOSSIBLE = 2**62


def footage_key(class_name: str, path: PurePath) -> Hashable:
    """What the name of a video tells of its footage: the UCF-101 group of its class, else its path."""
    group = group_of(path)
    return (class_name.lower(), group) if group else path


def groups_of(cuts: Iterable[Cut]) -> list[Group]:
    """The cuts by group. Neither the order of the groups nor that in a group depends on the order given."""
    ordered = sorted(cuts, key=lambda cut: cut.clip_id)
    first_with: dict[Hashable, int] = {}
    earlier = list(range(len(ordered)))  # a cut of the same group, itself in the first one of a group

    def first_of_group(index: int) -> int:
        while earlier[index] != index:
            earlier[index] = index = earlier[earlier[index]]
        return index

    for index, cut in enumerate(ordered):
        for key in (footage_key(cut.class_name, PurePosixPath(cut.source)), cut.frames_sha256):
            one, other = first_of_group(first_with.setdefault(key, index)), first_of_group(index)
            earlier[max(one, other)] = min(one, other)
    groups: dict[int, Group] = defaultdict(list)
    for index, cut in enumerate(ordered):
        groups[first_of_group(index)].append(cut)
    return list(groups.values())


def name_of(group: Group) -> str:
    """A name that no other group has: ``<Class>/gXX`` with UCF-101 names, else the path of a source."""

    def name(cut: Cut) -> str:
        number = group_of(PurePosixPath(cut.source))
        return f"{cut.class_name}/{number}" if number else cut.source

    return min(name(cut) for cut in group)


def draw_split(cuts: Iterable[Cut], search_clips: int, seed: int) -> list[Clip]:
    """Draw whole groups for the search, as evenly over the classes as possible; the others are for the test.

    The search gets ``search_clips`` (1 or more). Where groups make that impossible, or would leave the test
    nothing, it gets the nearest number, of two the smaller. All clips of a single group are for the test. The
    draw depends on the cuts and the seed alone, not on the order of the cuts.
    """
    groups = groups_of(cuts)
    drawn = {id(group) for group in _draw_groups(groups, search_clips, random.Random(seed))}
    return [clip for group in groups for clip in _assigned(group, "search" if id(group) in drawn else "test")]


def split_as_listed(search: Sequence[Cut], test: Sequence[Cut]) -> list[Clip]:
    """The split that lists make.

    Raises:
        ValueError: it divides a group; the message names two of its clips.
    """
    for_search = {cut.clip_id for cut in search}
    clips: list[Clip] = []
    for group in groups_of([*search, *test]):
        searched = [cut for cut in group if cut.clip_id in for_search]
        tested = [cut for cut in group if cut.clip_id not in for_search]
        if searched and tested:
            raise ValueError(f"{searched[0].source} and {tested[0].source} show the same footage")
        clips += _assigned(group, "search" if searched else "test")
    return clips


def _assigned(group: Group, split: Split) -> list[Clip]:
    name = name_of(group)
    return [Clip(**vars(cut), group=name, split=split) for cut in group]


def _draw_groups(groups: Sequence[Group], search_clips: int, generator: random.Random) -> list[Group]:
    """Groups of about ``search_clips`` clips.

    Of all numbers of clips of the classes that have this sum, those with the least sum of squares are the
    most even: no class then has two clips more than another, if groups and sizes of classes allow that.
    ``costs[i][n]`` is this least sum for n clips of the first i classes.
    """
    if len(groups) < 2:
        return []
    total = sum(len(group) for group in groups)
    # One more group leads from below the wanted number to at most its size above it.
    limit = min(total - 1, search_clips + max(len(group) for group in groups))
    by_class: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_class[_class_of(group)].append(group)
    classes = [
        generator.sample(by_class[name], len(by_class[name]))
        for name in generator.sample(sorted(by_class), len(by_class))
    ]
    counts = [_possible_counts(members, limit) for members in classes]
    costs = [np.full(limit + 1, _IMPOSSIBLE)]
    costs[0][0] = 0
    for possible in counts:
        before, after = costs[-1], np.full(limit + 1, _IMPOSSIBLE)
        for count in possible:
            np.minimum(after[count:], before[: limit + 1 - count] + count**2, out=after[count:])
        costs.append(after)

    reachable = [number for number in range(1, limit + 1) if costs[-1][number] < _IMPOSSIBLE]
    left = min(reachable, key=lambda number: (abs(number - search_clips), number))
    drawn: list[Group] = []
    for index in reversed(range(len(classes))):
        before, after = costs[index], costs[index + 1]
        # Several counts may be as good: the least leaves more to other classes, whose order was drawn.
        count = next(
            count
            for count in counts[index]
            if count <= left and before[left - count] + count**2 == after[left]
        )
        drawn += _draw_of_class(classes[index], count, generator)
        left -= count
    return drawn


def _class_of(group: Group) -> str:
    """The class that a group counts for: that of most of its clips, of several the first by name."""
    sizes = Counter(cut.class_name for cut in group)
    return min(sizes, key=lambda name: (-sizes[name], name))


def _possible_counts(groups: Sequence[Group], limit: int) -> list[int]:
    """How many clips some of the groups can have together, up to ``limit``."""
    sums = _sums(groups)[-1]
    return [count for count in range(limit + 1) if sums >> count & 1]


def _sums(groups: Sequence[Group]) -> list[int]:
    """At each index i, the numbers of clips that some of the first i groups have together, as set bits."""
    sums = [1]
    for group in groups:
        sums.append(sums[-1] | sums[-1] << len(group))
    return sums


def _draw_of_class(groups: Sequence[Group], count: int, generator: random.Random) -> list[Group]:
    """Groups that have exactly ``count`` clips, which some of the shuffled ``groups`` have."""
    sums, drawn = _sums(groups), []
    for index in reversed(range(len(groups))):
        size = len(groups[index])
        with_it = count >= size and sums[index] >> (count - size) & 1
        without_it = sums[index] >> count & 1
        if with_it and not (without_it and generator.random() < 0.5):
            drawn.append(groups[index])
            count -= size
    return drawn
