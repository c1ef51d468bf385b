"""The preprocess stage: a folder of raw videos to a folder of clips with their manifest.

Every clip is for the search or for the test (:mod:`lora_tta.data.split`). The split is made when all clips
are there, from them alone, so neither the order of the work nor a rejected video has a part in it.

``rejected.json``, the manifest's companion, counts and lists the raw videos that were tried in vain::

    {"accepted": 98, "rejected": {"too_short": 2}, "listed_but_missing": 0,
     "clips": [{"source": "Basketball/v_Basketball_g01_c01.avi", "reason": "too_short", "detail": "..."}]}
"""

import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from lora_tta.config import DataParams, PreprocessParams
from lora_tta.data.captions import caution, with_captions
from lora_tta.data.folder import Listing, list_files, printable
from lora_tta.data.rejection import RejectedError, Rejection
from lora_tta.data.split import draw_split, footage_key, split_as_listed
from lora_tta.data.stratified import StratifiedSampler
from lora_tta.data.transcode import ClipFormat, read_packets, transcode
from lora_tta.data.ucf101 import Source, name_sources, read_split_list, select_listed
from lora_tta.data.windows import Windows
from lora_tta.ends import follow_parent, without_ctrl_c
from lora_tta.errors import UserError
from lora_tta.files import PARTIAL_PATTERN, write_text
from lora_tta.records.clips import MANIFEST_NAME, Clip, Cut, write_manifest

REJECTED_NAME = "rejected.json"
# Fewer are done before one more process has started.
CLIPS_PER_WORKER = 16

Transcode = Callable[[Source], list[Cut] | Rejection]


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
    by the next of its class; without, all are taken. About ``params.search_clips`` of the clips are for the
    search, see :func:`~lora_tta.data.split.draw_split`. With ``data.search_list``, as many are drawn from it,
    and the rest of ``num_clips`` from the videos for the test.

    The files are the same for any number of ``workers`` (processes; if ``None`` up to as many as there are
    cores, none besides this one if 1). Prints one line.

    Raises:
        UserError: the data folder is missing, holds no videos, or none gives a clip; a list cannot be read,
            or none of its clips is there; the lists divide clips of the same footage, or leave the test none.
    """
    pools = _find_pools(data, params)
    output.mkdir(parents=True, exist_ok=True)
    # Without its manifest, a folder left half done by an interruption is not taken for a finished one.
    (output / MANIFEST_NAME).unlink(missing_ok=True)

    run = partial(transcode, root=data.root, output=output, clip_format=clip_format_of(params))
    wanted = pools.wanted_for_search + pools.wanted
    rejections = list(pools.skipped)
    with (
        _mapper(workers or min(_available_cores(), 1 + wanted // CLIPS_PER_WORKER)) as mapper,
        tqdm(total=wanted, desc="preprocess", unit="clip") as bar,
    ):
        make = partial(_transcode_sampled, params, run, mapper, bar, rejections)
        listed = make(pools.for_search, pools.wanted_for_search)
        others = make(pools.sources, pools.wanted)

    rejected = dict(sorted(Counter(str(rejection.reason) for rejection in rejections).items()))
    summary = Summary(len(listed) + len(others), rejected, pools.missing)
    _remove_other_clips(output, [*listed, *others])
    _write_rejected(output / REJECTED_NAME, summary, rejections)
    if not others:
        purpose = " for the test" if pools.for_search else ""
        reasons = f"({summary}): see {output / REJECTED_NAME}"
        raise UserError(f"no video in {data.root} gives a clip{purpose} {reasons}")
    if pools.for_search:
        clips = _split_as_listed(data, listed, others)
    else:
        clips = draw_split(others, params.search_clips, params.seed)
    write_manifest(output, clips)
    if warning := caution([clip.caption for clip in clips], data.caption_suffix):
        print(f"preprocess: {warning}", file=sys.stderr)
    print(f"preprocess: {summary}; {_describe_split(clips, params.search_clips, data.search_list)}")
    return summary


def clip_format_of(params: PreprocessParams) -> ClipFormat:
    """The format that the settings describe."""
    return ClipFormat(
        size=params.size or (params.height, params.width),
        fps=params.fps,
        conditioning_frames=params.conditioning_frames,
        windows=Windows(
            length=params.num_frames,
            place=params.window,
            count=params.windows_per_video,
            stride=params.stride,
            seed=params.seed,
        ),
    )


def check_folder(root: Path) -> None:
    """Look for one video, without decoding.

    Raises:
        UserError: the folder is missing, none of its files can be read as a video, or DVC cannot track it.
    """
    first: str | None = None
    files = _list_folder(root).files
    for path in files:
        if printable(str(path)) != str(path):
            raise UserError(f"{printable(str(path))}: DVC knows names in UTF-8 only: rename it")
    for path in files:
        try:
            read_packets(path)
        except RejectedError as rejected:
            first = first or f"{path.name} is not: {rejected.detail}"
        else:
            return
    raise UserError(f"data.root {root} holds no videos ({first}): fill it or name another folder")


@dataclass(frozen=True)
class _Pools:
    """The raw videos to draw from, and how many clips to make of them, at most.

    Attributes:
        for_search: those that are for the search by a list; none without one.
        wanted_for_search: of ``for_search``.
        sources: those for the test; without a list, those for both.
        wanted: of ``sources``.
        missing: how many listed ones are not there.
        skipped: what lies among them and is none.
    """

    for_search: list[Source]
    wanted_for_search: int
    sources: list[Source]
    wanted: int
    missing: int
    skipped: list[Rejection]


def _find_pools(data: DataParams, params: PreprocessParams) -> _Pools:
    listing = _list_folder(data.root)
    videos = with_captions(name_sources(listing.files, data.root), data.root, data.caption_suffix)
    for_search, missing_for_search = [], 0
    if data.search_list is not None:
        for_search, missing_for_search = _listed(videos, data.search_list, data.root)
    if data.split_list is not None:
        sources, missing = _listed(videos, data.split_list, data.root)
    else:
        searched = {source.clip_id for source in for_search}
        sources, missing = [source for source in videos if source.clip_id not in searched], 0
        if not sources:
            raise UserError(f"{data.search_list} lists all videos in {data.root}: leave some for the test")
    if for_search:
        _check_lists(data, for_search, sources)
    wanted_for_search = min(params.search_clips, len(for_search) * params.windows_per_video)
    wanted = len(sources) * params.windows_per_video
    if params.num_clips is not None:
        wanted = min(params.num_clips - (params.search_clips if for_search else 0), wanted)
    return _Pools(
        for_search, wanted_for_search, sources, wanted, missing_for_search + missing, listing.skipped
    )


def _list_folder(root: Path) -> Listing:
    if not root.is_dir():
        raise UserError(f"data.root {root} is not a folder: create it with `dvc pull` or `lora-tta import`")
    listing = list_files(root)
    if not listing.files:
        raise UserError(f"data.root {root} holds no videos: fill it with `dvc pull` or `lora-tta import`")
    return listing


def _listed(videos: list[Source], path: Path, root: Path) -> tuple[list[Source], int]:
    """The videos that a list names, and how many of its names no video has."""
    sources, missing = select_listed(videos, read_split_list(path))
    if not sources:
        raise UserError(f"none of the clips listed in {path} is in {root}: change either")
    return sources, len(missing)


def _check_lists(data: DataParams, for_search: list[Source], for_test: list[Source]) -> None:
    """Refuse lists that divide a group by its name, before any work on videos they need not be drawn for."""
    tested = {footage_key(source.class_name, source.path): source for source in for_test}
    for source in for_search:
        if other := tested.get(footage_key(source.class_name, source.path)):
            names = [each.path.relative_to(data.root).as_posix() for each in (source, other)]
            raise _divided(data, f"{names[0]} and {names[1]} show the same footage")


def _split_as_listed(data: DataParams, for_search: list[Cut], for_test: list[Cut]) -> list[Clip]:
    try:
        return split_as_listed(for_search, for_test)
    except ValueError as error:
        raise _divided(data, error) from None


def _divided(data: DataParams, found: object) -> UserError:
    lists = " and ".join(str(path) for path in (data.search_list, data.split_list) if path is not None)
    return UserError(f"{lists} divide a group between search and test: {found}")


def _transcode_sampled(
    params: PreprocessParams,
    run: Transcode,
    mapper: Callable,
    bar: tqdm,
    rejections: list[Rejection],
    sources: list[Source],
    wanted: int,
) -> list[Cut]:
    """Make ``wanted`` clips of ``sources``, or as many as they give; adds to ``rejections``."""
    sampler, each = StratifiedSampler(sources, params.seed), params.windows_per_video
    possible = len(sources) * each
    cuts: list[Cut] = []
    while batch := sampler.draw(-(-(wanted - len(cuts)) // each)):
        for source, result in zip(batch, mapper(run, batch), strict=True):
            if isinstance(result, Rejection):
                rejections.append(result)
                sampler.reject(source)
                bar.set_postfix(rejected=len(rejections))
                result = []
            made = result[: wanted - len(cuts)]
            cuts += made
            # What cannot be replaced is no longer waited for.
            before, possible = possible, possible - each + len(result)
            bar.total -= max(min(wanted, before) - possible, 0)
            bar.update(len(made))
    return cuts


def _describe_split(clips: list[Clip], search_clips: int, search_list: Path | None) -> str:
    """How many clips each part has, and why the search has not as many as asked for."""
    searched = sum(clip.split == "search" for clip in clips)
    if searched == search_clips:
        note = ""
    elif search_list is not None:
        note = f" ({search_clips} asked for: {search_list} gives no more)"
    elif searched:
        note = f" ({search_clips} asked for: groups stay whole, and some clips are left for the test)"
    else:
        note = f" ({search_clips} asked for: all clips are of one group, so the search will have none)"
    return f"{searched} for the search{note}, {len(clips) - searched} for the test"


@contextmanager
def _mapper(workers: int) -> Iterator[Callable]:
    """``map`` over processes. They are spawned: a fork would inherit the locks of other threads (torch)."""
    if workers == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=follow_parent) as executor:

        def submit_all(run: Transcode, batch: list[Source]) -> Iterator[list[Cut] | Rejection]:
            with without_ctrl_c():
                return executor.map(run, batch)

        try:
            yield submit_all
        except BaseException:
            # Not when all that was submitted is done, which may take hours. The clips under way are finished:
            # the executor of Python 3.11 fails in a thread if a process ends while something is cancelled.
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _remove_other_clips(output: Path, clips: list[Cut]) -> None:
    names = {clip.file_name for clip in clips}
    for path in output.glob("*.mp4"):
        if path.name not in names:
            path.unlink()
    for path in output.glob(PARTIAL_PATTERN):
        path.unlink()


def _write_rejected(path: Path, summary: Summary, rejections: list[Rejection]) -> None:
    listed = [asdict(rejection) for rejection in sorted(rejections, key=lambda item: item.source)]
    write_text(path, json.dumps(asdict(summary) | {"clips": listed}, indent=2) + "\n")
