"""What is known of a clip that has been run, for the processes that hand it on and need no torch."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_tta.adaptation.adapter_files import export_adapter
from lora_tta.data.video import read_clip_frames
from lora_tta.records.clips import Clip
from lora_tta.records.results import ClipResult, write_results
from lora_tta.report.filmstrip import frame_strip


@dataclass(frozen=True)
class ClipRun:
    """A clip's continuation with its measurements; the files lie in the cache.

    Attributes:
        clip: the preprocessed clip.
        result: metrics, losses and costs.
        video: H.264 file of the 65 frames.
        frames_file: the same frames as they were before compression, (65, H, W, 3) uint8.
        adapter: PEFT folder, None without adaptation.
    """

    clip: Clip
    result: ClipResult
    video: Path
    frames_file: Path
    adapter: Path | None


def export_runs(folder: Path, runs: Sequence[ClipRun]) -> None:
    """Copy what a stage hands on out of the cache: result tables, ``videos`` and ``adapters``."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    for run in runs:
        shutil.copyfile(run.video, folder / "videos" / f"{run.clip.clip_id}.mp4")
        if run.adapter is not None:
            export_adapter(run.adapter, folder / "adapters" / run.clip.clip_id)
    write_results(folder, [run.result for run in runs])


def strip(clips: Path, run: ClipRun, baseline: ClipRun | None = None) -> np.ndarray:
    """A few frames of the ground truth above those of the baseline, if given, and of the run, as an image."""
    return frame_strip(
        read_clip_frames(clips, run.clip),
        None if baseline is None else np.load(baseline.frames_file),
        np.load(run.frames_file),
    )
