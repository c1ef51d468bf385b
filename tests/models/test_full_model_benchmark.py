import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "full_model.py"


@pytest.mark.slow
def test_benchmark_measures_every_kind_of_work(tmp_path):
    sizes = ["--height=16", "--width=16", "--frames=37", "--text-length=4", "--num-inference-steps=1"]
    output = tmp_path / "figures.json"
    options = ["--tiny", "--device=cpu", "--dtype=float32", "--repeats=1", f"--output={output}", *sizes]
    command = [sys.executable, BENCHMARK, *options]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = json.loads(output.read_text())["rows"]
    assert [row["work"] for row in rows] == [
        "sampling step, 1 branch(es), 10 + 4 tokens",
        "sampling step, 3 branch(es), 10 + 4 tokens",
        "generation, 37 frames, 1 steps, with decoding",
        "VAE encoding of 33 frames",
        "VAE decoding of 37 frames",
        "LoRA step, rank 16, 9 + 4 tokens",
        "LoRA step with recomputation, 9 + 4 tokens",
    ]
    assert all(row["seconds"] > 0 for row in rows)
    assert all(row["work"] in printed for row in rows)
