import json
import shutil
import subprocess
from pathlib import Path

import pytest
from prepared_clips import write_raw_clip
from warm_processes import warm_python

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow(50)
def test_the_saving_is_counted_and_the_results_are_the_plain_grids(
    tmp_path, tiny_model, moving_frames, empty_database
):
    for study in ("search", "pruned"):
        (tmp_path / "tiny-1-clips" / study).mkdir(parents=True)
        shutil.copy(empty_database, tmp_path / "tiny-1-clips" / study / "mlflow.db")
    write_raw_clip(tmp_path / "raw" / "Sliding" / "v_Sliding_g01_c01.avi", moving_frames)
    options = ["--tiny", "--clips=1", f"--work={tmp_path}", f"--model={tiny_model}", f"--data={tmp_path}/raw"]
    command = [warm_python(), "benchmarks/search_saving.py", *options]
    printed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    table = json.loads((tmp_path / "tiny-1-clips" / "table.json").read_text())
    assert all(name in printed for name in table)
    executed = {
        name: [
            int(column[kind])
            for kind in ("adaptation steps", "generated clips", "baseline generations", "encoded clips")
        ]
        for name, column in table.items()
    }
    # 2 ranks, 1 and 3 steps: 4 trials, or 2 trajectories.
    assert executed["plain grid"] == [2 * (1 + 3), 4, 1, 4 + 1]
    assert executed["search"] == executed["search, Wilcoxon pruner"] == [2 * 3, 4, 1, 1]
    for column in table.values():
        assert column["values equal to the plain grid's"] == "4 of 4"
        assert column["same best as the plain grid"] == "yes"
