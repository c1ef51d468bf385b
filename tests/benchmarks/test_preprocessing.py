import json
import subprocess
import sys
from pathlib import Path

import pytest
from prepared_clips import write_raw_clip

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "preprocessing.py"


@pytest.mark.slow(10)
def test_rates_are_set_against_plain_decoding(tmp_path, moving_frames):
    write_raw_clip(tmp_path / "raw" / "Sliding" / "v_Sliding_g01_c01.avi", moving_frames)
    write_raw_clip(tmp_path / "raw" / "Sliding" / "v_Sliding_g01_c02.avi", moving_frames[:10])  # too short
    output = tmp_path / "rates.json"
    options = [f"--clips={tmp_path}/raw", "--height=32", "--width=48", "--min-clips=3", "--repeats=1"]
    command = [sys.executable, BENCHMARK, *options, f"--output={output}"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = {row["work"]: row["clips per second"] for row in json.loads(output.read_text())["rows"]}
    assert all(len(rates) == 1 and min(rates) > 0 for rates in rows.values())
    assert {"plain decoding", "reading time stamps", "decoding and scaling", "preprocessing"} <= set(rows)
    assert all(f"| {name} |" in printed for name in rows)
    assert "clips: 3 from" in printed
