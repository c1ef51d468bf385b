"""The files that a stage hands on from the cache."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lora_tta.data.video import read_clip_frames
from lora_tta.errors import UserError
from lora_tta.experiment.failures import write_failures
from lora_tta.records.outcome import ClipFailure, ClipOutcome
from lora_tta.records.results import write_results
from lora_tta.report.filmstrip import frame_strip


def export_files(folder: Path, outcome: ClipOutcome) -> None:
    """Copy a clip's files to ``videos/<clip>.mp4`` and ``adapters/<clip>``."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(outcome.video, folder / "videos" / f"{outcome.clip.clip_id}.mp4")
    if outcome.adapter is not None:
        shutil.copytree(outcome.adapter, folder / "adapters" / outcome.clip.clip_id, dirs_exist_ok=True)


def export_tables(
    folder: Path, outcomes: Sequence[ClipOutcome], failures: Sequence[ClipFailure] = ()
) -> None:
    """Write the tables of results and, where clips failed, ``failed.csv``.

    Raises:
        UserError: there is no outcome.
    """
    if failures and not outcomes:
        first = failures[0]
        raise UserError(f"all {len(failures)} clips failed; {first.clip.clip_id}: {first.reason}")
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, [outcome.result for outcome in outcomes])
    write_failures(folder, failures)


def strip(clips_folder: Path, outcome: ClipOutcome, baseline: ClipOutcome | None = None) -> np.ndarray:
    """A few frames as one image: the ground truth above the baseline, if given, and the continuation."""
    return frame_strip(
        read_clip_frames(clips_folder, outcome.clip),
        None if baseline is None else np.load(baseline.frames_file),
        np.load(outcome.frames_file),
        outcome.clip.conditioning_frames,
    )
