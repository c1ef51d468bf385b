"""What the frames that the model is to continue can change: of a test clip, no choice, adapter or video."""

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from commands import REPOSITORY
from prepared_clips import write_raw_clip

from lora_tta.cli.main import main as command
from lora_tta.records.clips import Split, read_manifest
from lora_tta.stages import adapt, baseline, encode, evaluate, preprocess, search
from lora_tta.stages.paths import ADAPT, BASELINE, BEST, CLIPS, METRICS, SEARCH_CLIPS_METRICS, TRIALS

STAGES = (preprocess, encode, baseline, search, adapt, evaluate)
SETTINGS = [
    "data.root=raw",
    "preprocess.height=32",
    "preprocess.width=48",
    "preprocess.num_clips=3",
    "preprocess.search_clips=1",
    "model.device=cpu",
    "generation.num_inference_steps=1",
    "evaluation.lpips=untrained",
    "evaluation.bootstrap_samples=100",
    "workers.processes=1",
    "search.n_trials=2",
    "search.sampler=grid",
    "search.space.rank=[2]",
    "search.space.learning_rate=[1.0e-3, 2.0e-3]",
    "adaptation.stopping=null",
    "search.space.num_steps=[1]",
]


class Run:
    """The outputs of all stages."""

    def __init__(self) -> None:
        for stage in STAGES:
            stage.main()
        self.best = json.loads(BEST.read_text())
        self.trials = pd.read_csv(TRIALS)
        self.metrics, self.on_search_clips = (
            json.loads(path.read_text()) for path in (METRICS, SEARCH_CLIPS_METRICS)
        )
        self.baselines, self.adapters, self.videos = (
            hashes(folder) for folder in (BASELINE / "videos", ADAPT / "adapters", ADAPT / "videos")
        )


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.fixture
def raw(tmp_path, monkeypatch, tiny_model, moving_frames, empty_database):
    """A project of three videos; their frames by name."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_database, tmp_path / "mlruns" / "mlflow.db")
    raw = {name: moving_frames[:, :, ::step] for name, step in (("one", 1), ("two", -1), ("three", 1))}
    raw["three"] = raw["three"][:, ::-1]
    for name, frames in raw.items():
        write_raw_clip(tmp_path / "raw" / f"{name}.avi", frames)
    assert command(["params", f"model.path={tiny_model}", *SETTINGS]) == 0
    return raw


def change_future_of(split: Split, raw) -> None:
    """Invert what comes after the conditioning frames of the first clip that is for this."""
    clip = read_manifest(CLIPS, split)[0]
    frames = raw[clip.clip_id].copy()
    frames[clip.conditioning_frames :] = 255 - frames[clip.conditioning_frames :]
    write_raw_clip(Path("raw") / clip.source, frames)


@pytest.mark.slow(60)
@pytest.mark.usefixtures("loaded_once")
def test_the_future_of_a_test_clip_changes_its_scores_and_that_of_a_search_clip_the_searchs(raw):
    before = Run()
    assert before.metrics["psnr"]["clips"] == 2
    assert before.on_search_clips["psnr"]["clips"] == 1

    change_future_of("test", raw)
    after = Run()
    assert after.best == before.best
    pd.testing.assert_frame_equal(after.trials, before.trials)
    assert (after.baselines, after.adapters, after.videos) == (
        before.baselines,
        before.adapters,
        before.videos,
    )
    assert after.metrics["psnr"]["baseline"] != before.metrics["psnr"]["baseline"]
    assert after.on_search_clips == before.on_search_clips

    change_future_of("search", raw)
    point = [f"search.space.{name}=[{value}]" for name, value in after.best["point"].items()]
    assert command(["params", "search.n_trials=1", *point]) == 0  # the search could choose the other one now
    last = Run()
    assert last.best["objectives"] != after.best["objectives"]
    assert last.on_search_clips != after.on_search_clips
    assert (last.baselines, last.adapters, last.videos) == (after.baselines, after.adapters, after.videos)
    assert last.metrics == after.metrics
