"""The walks of CONTRIBUTING.md, applied as they stand there to a copy of the repository."""

import json
import re
from pathlib import Path

import pytest
from commands import REPOSITORY, SMALL_RUN, Workspace

SMALL = [
    *SMALL_RUN,
    "search.objectives=[{metric: brightness, direction: maximize}]",
]
# Touched by running the pipeline with other settings.
BY_USE = {"params.yaml", "dvc.yaml", "dvc.lock", ".dvc/", "outputs/", "mlruns/", "models/toy/"}


def section(title: str) -> str:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    return re.search(rf"^## {title}$(.+?)(?=^## )", text, re.MULTILINE | re.DOTALL)[1]


def apply(walk: str, folder: Path) -> set[str]:
    """Write the new files of a walk and make its changes; returns the paths."""
    touched = set()
    for path, kind, block in re.findall(r"^`(\S+)`, [^\n]+:\n\n```(\w+)\n(.+?)^```", walk, re.M | re.S):
        file = folder / path
        if kind == "python":
            assert not file.exists()
            file.write_text(block)
        else:
            lines = block.splitlines()
            before, after = ("\n".join(line[1:] for line in lines if line.startswith(sign)) for sign in "-+")
            assert file.read_text().count(before) == 1
            file.write_text(file.read_text().replace(before, after))
        touched.add(path)
    return touched


def commands(walk: str) -> list[str]:
    return re.findall(r"^```sh\n(.+?)^```", walk, re.M | re.S)


@pytest.mark.slow(80)
def test_a_toy_method_a_toy_metric_and_a_toy_model_run_through_the_pipeline(tmp_path, empty_database):
    workspace = Workspace(tmp_path)
    workspace.keep_runs_in(empty_database)
    walks = [section(title) for title in ("A method", "A metric", "A model")]
    touched = [apply(walk, tmp_path) for walk in walks]
    assert [len(paths) for paths in touched] == [2, 2, 2]  # one file and one entry each

    workspace.run("dvc", "pull", "data.dvc", "models/embedded.dvc")
    for walk in walks:
        for command in commands(walk):
            workspace.run("sh", "-c", command)
    workspace.run("lora-tta", "params", *SMALL)
    workspace.run("python", "-m", "lora_tta.stages.deps")
    stages = {"preprocess", "encode", "baseline", "search", "adapt", "evaluate"}
    assert workspace.repro() == stages
    assert "up to date" in workspace.run("dvc", "status")

    metrics = workspace.json("evaluate/metrics.json")
    assert {"brightness", "psnr", "ssim", "lpips_untrained", "temporal_consistency"} < set(metrics)
    assert metrics["psnr"]["difference"] != 0
    best = workspace.json("search/best.json")
    assert set(best["point"]) == {"learning_rate", "num_steps"}
    assert set(best["objectives"]) == {"brightness"}
    assert len(list((tmp_path / "outputs/adapt/adapters").glob("*/weights.safetensors"))) == 3
    report = (tmp_path / "outputs/evaluate/report.html").read_text()
    assert "Brightness" in report
    assert "nothing about a toy" in report
    assert not (tmp_path / "outputs/evaluate/plots/frames/brightness.csv").exists()

    changed = {line[3:] for line in workspace.run("git", "status", "--porcelain").splitlines()}
    expected = set().union(*touched)
    assert {path for path in changed if not path.startswith(tuple(BY_USE))} == expected
    assert json.loads((tmp_path / "outputs/search/best.json").read_text())["failed"] == 0
