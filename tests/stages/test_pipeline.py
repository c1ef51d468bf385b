"""The whole pipeline with real DVC commands, on the embedded data and model, in a small setting."""

import shutil

import mlflow
import pytest
from commands import SMALL_RUN, Workspace

SMALL = [
    *SMALL_RUN,
    "search.space.rank=[2]",
    "search.space.learning_rate=[1.0e-3, 2.0e-3]",
    "search.space.num_steps=[1]",
]


@pytest.mark.slow(170)
def test_the_pipeline_from_pull_to_report(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.run("dvc", "pull", "data.dvc", "models/embedded.dvc")
    workspace.run("lora-tta", "params", *SMALL)

    stages = {"preprocess", "encode", "baseline", "search", "adapt", "evaluate"}
    assert workspace.repro() == stages
    assert "up to date" in workspace.run("dvc", "status")

    metrics = workspace.json("evaluate/metrics.json")
    assert set(metrics) == {
        "psnr",
        "ssim",
        "lpips_untrained",
        "temporal_consistency",
        "motion_error",
        "temporal_lpips_untrained",
    }
    assert metrics["psnr"]["clips"] == 2
    assert "psnr" in workspace.run("dvc", "metrics", "diff", "--all")
    assert "file://" in workspace.run("dvc", "plots", "show")
    assert "PSNR" in workspace.run("lora-tta", "summary")
    assert (tmp_path / "outputs/evaluate/report.html").read_text().count("<video") >= 6

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    runs = mlflow.search_runs(search_all_experiments=True)
    assert runs["tags.lora_tta.kind"].value_counts().to_dict() == {
        "study": 1,
        "trial": 2,
        "baseline": 1,
        "final": 1,
    }
    (study,) = runs[runs["tags.lora_tta.kind"] == "study"]["run_id"]
    children = runs[runs["tags.lora_tta.kind"] == "trial"]
    assert set(children["tags.mlflow.parentRunId"]) == {study}
    assert set(runs["status"]) == {"FINISHED"}

    # Without the cache, every continuation, adapter and value is the same to the last bit. That a study is
    # the same again shows where it takes no process (tests/search/test_worker.py).
    before = (tmp_path / "dvc.lock").read_text()
    shutil.rmtree(tmp_path / ".cache")
    workspace.run("dvc", "repro", "--force", "--single-item", "baseline", "adapt")
    assert (tmp_path / "dvc.lock").read_text() == before

    # A change of the code makes the stages stale that run it, and no others.
    def change(name: str) -> set[str]:
        with (tmp_path / name).open("a") as file:
            file.write("\n# changed\n")
        return workspace.stale()

    assert change("src/lora_tta/report/page.py") == {"evaluate"}
    results = workspace.results()
    assert workspace.repro(warm=False) == {"evaluate"}
    assert workspace.results() == results
    # `evaluate` reads no video; it runs again after the stages that do.
    assert change("src/lora_tta/data/video.py") == stages - {"evaluate"}
    assert change("requirements.lock") == stages
