"""Why a raw video gives no clip."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a raw video gives no clip."""

    TOO_SHORT = "too_short"  # intact, but less than one window at the target rate
    TRUNCATED = "truncated"  # the file ends before the frames its container promises, wherever the window is
    UNREADABLE = "unreadable"  # cannot be opened, or not decoded without errors up to the window's end
    NO_VIDEO = "no_video"  # opens, but holds no moving pictures
    BAD_TIMES = "bad_times"  # decodes, but the times of its pictures cannot be put in order


@dataclass(frozen=True)
class Rejection:
    """A raw video that gave no clip; ``source`` is relative to the data root."""

    source: str
    reason: Reason
    detail: str


class RejectedError(Exception):
    """A file gives no clip, for this reason."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail
