"""The preprocess stage: a folder of raw videos to a folder of 65-frame clips with their manifest.

``rejected.json``, the manifest's companion, counts and lists the raw videos that were tried in vain::

    {"accepted": 98, "rejected": {"too_short": 2}, "listed_but_missing": 0,
     "clips": [{"source": "Basketball/v_Basketball_g01_c01.avi", "reason": "too_short", "detail": "..."}]}
"""

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from lora_tta.config import DataParams, PreprocessParams
from lora_tta.data.stratified import StratifiedSampler
from lora_tta.data.transcode import ClipFormat, Rejection, transcode
from lora_tta.data.ucf101 import Source, find_videos, read_split_list, select_listed
from lora_tta.errors import UserError
from lora_tta.files import PARTIAL_PATTERN, write_text
from lora_tta.records.clips import MANIFEST_NAME, Clip, write_manifest

REJECTED_NAME = "rejected.json"
# Fewer are done before one more process has started.
CLIPS_PER_WORKER = 16

Transcode = Callable[[Source], Clip | Rejection]


@dataclass(frozen=True)
class Summary:
    """The fate of the raw videos: clips written, videos rejected by reason, listed names not found."""

    accepted: int
    rejected: dict[str, int]
    listed_but_missing: int

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.rejected.items()) or "none"
        missing = f"; {self.listed_but_missing} listed but missing" if self.listed_but_missing else ""
        return f"{self.accepted} clips; rejected: {reasons}{missing}"


def preprocess(
    data: DataParams, params: PreprocessParams, output: Path, workers: int | None = None
) -> Summary:
    """Make ``output`` the folder of clips: ``<clip_id>.mp4``, ``manifest.csv`` and ``rejected.json``.

    With ``params.num_clips``, raw videos are drawn stratified over the classes and a rejected one is replaced
    by the next of its class; without, all are taken. The files are the same for any number of ``workers``
    (processes; if ``None`` up to as many as there are cores, none besides this one if 1). Prints one line.

    Raises:
        UserError: the data folder is missing, holds no videos, or none gives a clip.
    """
    sources, missing = _find_sources(data)
    output.mkdir(parents=True, exist_ok=True)
    # Without its manifest, a folder left half done by an interruption is not taken for a finished one.
    (output / MANIFEST_NAME).unlink(missing_ok=True)

    clip_format = ClipFormat(params.height, params.width, params.fps, params.window)
    run = partial(transcode, root=data.root, output=output, clip_format=clip_format)
    wanted = min(params.num_clips or len(sources), len(sources))
    with _mapper(workers or min(_available_cores(), 1 + wanted // CLIPS_PER_WORKER)) as mapper:
        clips, rejections = _transcode_sampled(sources, params.num_clips, params.seed, run, mapper)

    rejected = dict(sorted(Counter(str(rejection.reason) for rejection in rejections).items()))
    summary = Summary(len(clips), rejected, missing)
    _remove_other_clips(output, clips)
    _write_rejected(output / REJECTED_NAME, summary, rejections)
    if not clips:
        raise UserError(f"no video in {data.root} gives a clip ({summary}): see {output / REJECTED_NAME}")
    write_manifest(output, clips)
    print(f"preprocess: {summary}")
    return summary


def _find_sources(data: DataParams) -> tuple[list[Source], int]:
    """The raw videos to choose from, and how many listed ones are missing."""
    if not data.root.is_dir():
        raise UserError(f"data.root {data.root} is not a folder: create it with dvc pull or import-ucf101")
    sources, missing = find_videos(data.root), []
    if not sources:
        raise UserError(f"data.root {data.root} holds no videos: fill it with dvc pull or import-ucf101")
    if data.split_list is not None:
        sources, missing = select_listed(sources, read_split_list(data.split_list))
        if not sources:
            raise UserError(f"none of the clips listed in {data.split_list} is in {data.root}: change either")
    return sources, len(missing)


def _transcode_sampled(
    sources: list[Source], num_clips: int | None, seed: int, run: Transcode, mapper: Callable
) -> tuple[list[Clip], list[Rejection]]:
    sampler = StratifiedSampler(sources, seed)
    clips: list[Clip] = []
    rejections: list[Rejection] = []
    wanted = len(sources) if num_clips is None else num_clips
    with tqdm(total=min(wanted, len(sources)), desc="preprocess", unit="clip") as bar:
        while batch := sampler.draw(wanted - len(clips)):
            for source, result in zip(batch, mapper(run, batch), strict=True):
                if isinstance(result, Clip):
                    clips.append(result)
                    bar.update()
                else:
                    rejections.append(result)
                    sampler.reject(source)
                    bar.set_postfix(rejected=len(rejections))
    return clips, rejections


@contextmanager
def _mapper(workers: int) -> Iterator[Callable]:
    """``map`` over processes. They are spawned: a fork would inherit the locks of other threads (torch)."""
    if workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor.map


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _remove_other_clips(output: Path, clips: list[Clip]) -> None:
    names = {clip.file_name for clip in clips}
    for path in output.glob("*.mp4"):
        if path.name not in names:
            path.unlink()
    for path in output.glob(PARTIAL_PATTERN):
        path.unlink()


def _write_rejected(path: Path, summary: Summary, rejections: list[Rejection]) -> None:
    listed = [asdict(rejection) for rejection in sorted(rejections, key=lambda item: item.source)]
    write_text(path, json.dumps(asdict(summary) | {"clips": listed}, indent=2) + "\n")
