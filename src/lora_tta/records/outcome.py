"""The outcome of the work on one clip, for the processes that hand it on and need no torch."""

from dataclasses import dataclass
from pathlib import Path

from lora_tta.records.clips import Clip
from lora_tta.records.results import ClipResult


@dataclass(frozen=True)
class ClipOutcome:
    """A clip's continuation with its measurements; the files lie in the cache.

    Attributes:
        clip: the preprocessed clip.
        result: metrics, losses and costs.
        video: H.264 file of all frames.
        frames_file: the same frames as they were before compression, (F, H, W, 3) uint8.
        adapter: folder of the adapted parameters, None without adaptation.
    """

    clip: Clip
    result: ClipResult
    video: Path
    frames_file: Path
    adapter: Path | None


@dataclass(frozen=True)
class ClipFailure:
    """A clip without a usable result, and the reason in one line."""

    clip: Clip
    reason: str


# What became of one clip in several runs of it.
Outcomes = tuple[ClipOutcome | ClipFailure, ...]
