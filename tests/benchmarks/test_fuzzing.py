"""Short runs of the fuzzing; the long ones take minutes, see the scripts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from warm_processes import warm_python

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name: str, num_files: int, *options: str, python: str = sys.executable) -> str:
    """The last line of a script that finds no failure."""
    command = [python, BENCHMARKS / f"{name}.py", f"--files={num_files}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow(10)
def test_damaged_videos_give_a_clip_or_a_reason_within_seconds_and_little_memory():
    """The machine that runs the tests may be busy, so there is more time than in the long run."""
    line = run("fuzz_videos", 30, "--seconds=60")
    clips, rejected = map(int, re.search(r"(\d+) gave clips, (\d+) a reason, 0 failed", line).groups())
    assert clips + rejected == 30
    assert rejected


def test_damaged_settings_are_read_or_refused_in_one_line():
    line = run("fuzz_params", 60, "--seconds=60", python=warm_python())
    assert re.fullmatch(r"60 files: \d+ refused, \d+ read; 0 failed", line)


@pytest.mark.slow(10)
def test_damaged_stores_are_used_or_refused_in_one_line():
    line = run("fuzz_stores", 6, "--seconds=300", python=warm_python())
    assert line.startswith("6 stores: ")
    assert line.endswith("; 0 failed")


def test_a_failure_is_found_and_its_file_is_kept(tmp_path):
    """With no memory allowed, every file fails."""
    options = ["--files=2", "--megabytes=1", f"--keep={tmp_path / 'kept'}"]
    command = [sys.executable, BENCHMARKS / "fuzz_videos.py", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "2 failed" in done.stdout
    assert len(list((tmp_path / "kept").iterdir())) == 2
