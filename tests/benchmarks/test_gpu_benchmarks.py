"""The GPU benchmarks, on tiny models and the CPU: that they run, and measure what they say."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a benchmark in this process, which has torch imported, and returns what it prints."""

    def run(script: str, *options: str) -> str:
        monkeypatch.syspath_prepend(BENCHMARKS)
        monkeypatch.setattr(sys, "argv", [script, *options])
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_full_model_benchmark_measures_every_kind_of_work(run, tmp_path):
    sizes = ["--height=16", "--width=16", "--frames=37", "--text-length=4", "--num-inference-steps=1"]
    output = tmp_path / "figures.json"
    options = ["--tiny", "--device=cpu", "--dtype=float32", "--repeats=1", "--generations=1"]
    printed = run("full_model.py", *options, f"--output={output}", *sizes)
    tables = json.loads(output.read_text())["tables"]
    assert {title: [row["work"] for row in rows] for title, rows in tables.items()} == {
        "plain": [
            "sampling step, 3 branches",
            "sampling step, 1 branch",
            "generation of 37 frames, 1 steps, decoded",
            "LoRA step",
            "adaptation of 20 steps, with its snapshot",
            "sampling step, 3 branches, with the adapter",
        ],
        "VAE": ["VAE encoding of 37 frames", "VAE decoding of 37 frames"],
    }
    rows = [row for rows in tables.values() for row in rows]
    assert all(row["least"] <= row["median"] <= row["most"] for row in rows)
    assert all(row["work"] in printed for row in rows)


def test_the_precision_benchmark_compares_three_adapters_with_float32(run):
    lines = run("precision.py", "--tiny").splitlines()
    errors = [[float(cell) for cell in line.split()[1:]] for line in lines[2:]]
    assert len(errors) == 3
    for _, velocity, merged, gradient, _ in errors:
        assert 1e-3 < min(velocity, merged, gradient) < max(velocity, merged, gradient) < 5e-2


def test_the_loading_benchmark_reads_and_loads_with_and_without_the_page_cache(run, tmp_path):
    folder = tmp_path / "model"
    lines = run("loading.py", "--tiny", "--device=cpu", "--repeats=2", f"--folder={folder}").splitlines()
    works = [
        f"{work} from {place}" for place in ("the page cache", "disk") for work in ("reading", "loading")
    ]
    assert [line[:28].rstrip() for line in lines[2:]] == [*works, *works[2:]]


def test_the_memory_benchmark_measures_each_mode_that_the_device_has(run, tmp_path):
    output = tmp_path / "rows.json"
    run("memory.py", "--tiny", "--device=cpu", "--sizes=16x16", "--text-length=4", f"--output={output}")
    rows = json.loads(output.read_text())
    assert [(row["work"], row["switched on"]) for row in rows if row["peak GiB"] > 0] == [
        ("VAE, 33 frames to latents", "in one piece"),
        ("VAE, latents to 65 frames", "in one piece"),
        ("VAE, 33 frames to latents", "tiling"),
        ("VAE, latents to 65 frames", "tiling"),
        ("LoRA steps", "plain PyTorch"),
        ("LoRA steps", "plain PyTorch, recomputation"),
        ("sampling step, 3 branches", "plain PyTorch"),
    ]
