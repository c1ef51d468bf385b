"""Which frames of a video become clips: by its number of frames alone, never by what they show."""

import random
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Windows:
    """One window of a video or several, as far as it has room for them.

    Attributes:
        length: frames of each.
        place: where they lie, all together, in a longer video.
        count: how many, at most.
        stride: frames from the start of one to that of the next; ``None``: they do not overlap.
        seed: of the place ``random``.
    """

    length: int
    place: Literal["first", "middle", "random"]
    count: int
    stride: int | None
    seed: int

    def starts(self, num_frames: int, source: str) -> list[int]:
        """The first frame of each window of a video; none of a video that is too short for one.

        Args:
            num_frames: of the video.
            source: its name, so that the places in different videos are drawn apart.
        """
        if num_frames < self.length:
            return []
        stride = self.stride or self.length
        count = min(self.count, (num_frames - self.length) // stride + 1)
        room = num_frames - self.length - (count - 1) * stride
        match self.place:
            case "first":
                start = 0
            case "middle":
                start = room // 2
            case "random":
                start = random.Random(f"{self.seed} {source}").randint(0, room)
        return [start + number * stride for number in range(count)]

    def clip_id(self, source_id: str, number: int) -> str:
        """The id of a window, counted from 0: that of its source if it has no more than one."""
        return source_id if self.count == 1 else f"{source_id}-w{number + 1}"
