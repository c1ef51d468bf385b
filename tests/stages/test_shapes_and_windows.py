"""All stages on videos of two shapes, with two windows of each and one known frame: image to video."""

import json
import re
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from commands import REPOSITORY
from prepared_clips import write_raw_clip

from lora_tta.cli.main import main as command
from lora_tta.data.video import read_video
from lora_tta.records.clips import read_manifest
from lora_tta.stages import adapt, baseline, encode, evaluate, preprocess, search
from lora_tta.stages.paths import ADAPT, CLIPS, METRICS, REPORT

SETTINGS = [
    "data.root=raw",
    "data.caption_suffix=4 motion score.",
    "preprocess.size=256px",
    "preprocess.conditioning_frames=1",
    "preprocess.generated_frames=4",
    "preprocess.windows_per_video=2",
    "preprocess.num_clips=4",
    "preprocess.search_clips=2",
    "model.device=cpu",
    "generation.num_inference_steps=1",
    "evaluation.lpips=untrained",
    "evaluation.bootstrap_samples=100",
    "workers.processes=1",
    "search.n_trials=1",
    "search.space.rank=[2]",
    "search.space.learning_rate=[1.0e-3]",
    "adaptation.stopping=null",
    "search.space.num_steps=[1]",
]


@pytest.mark.slow(15)
@pytest.mark.usefixtures("loaded_once")
def test_shapes_windows_and_captions_come_through_to_report_and_mlflow(
    tmp_path, monkeypatch, tiny_model, moving_frames, empty_database
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_database, tmp_path / "mlruns" / "mlflow.db")
    frames = moving_frames[:10]
    for name, shown in (("lying", frames), ("standing", frames.swapaxes(1, 2))):
        write_raw_clip(Path("raw") / f"{name}.avi", shown)
        Path("raw", f"{name}.txt").write_text(f"a <{name}> pattern")
    assert command(["params", f"model.path={tiny_model}", *SETTINGS]) == 0
    for stage in (preprocess, encode, baseline, search, adapt, evaluate):
        stage.main()

    clips = read_manifest(CLIPS)
    shapes = {clip.clip_id: (5, clip.height, clip.width, 3) for clip in clips}
    assert shapes == {
        f"{name}-w{number}": (5, *size, 3)
        for name, size in (("lying", (224, 288)), ("standing", (288, 224)))
        for number in (1, 2)
    }
    assert {read_video(ADAPT / "videos" / clip.file_name).shape for clip in clips} == {*shapes.values()}
    test = [clip for clip in clips if clip.split == "test"]
    assert {metric["clips"] for metric in json.loads(METRICS.read_text()).values()} == {len(test)} == {2}

    page = REPORT.read_text()
    assert "Frames 2\N{EN DASH}5" in page
    assert "The model saw frame 1;" in page
    for clip in test:
        name = clip.clip_id.partition("-")[0]
        assert clip.caption == f"a <{name}> pattern 4 motion score."
        assert f"Caption: a &lt;{name}&gt; pattern 4 motion score." in page

    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    with_clips = [run for run in runs if "mlflow.loggedArtifacts" in run.data.tags]
    assert len(with_clips) == 3  # baseline, trial, final
    for run in with_clips:
        table = pd.read_json(f"{run.info.artifact_uri.removeprefix('file://')}/clips.json", orient="split")
        captions = {clip.clip_id: clip.caption for clip in clips}
        assert dict(zip(table["clip_id"], table["caption"], strict=True)).items() <= captions.items()
        folder = Path(run.info.artifact_uri.removeprefix("file://"), "images")
        assert {re.match(r"[^+]+", path.name)[0] for path in folder.iterdir()} == set(table["clip_id"])
