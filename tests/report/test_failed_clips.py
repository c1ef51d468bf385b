"""A clip without a usable result is left out of both sides, and named with its reason."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clip_results import make_result

from lora_tta.cli.main import main as command
from lora_tta.data.video import write_video
from lora_tta.errors import UserError
from lora_tta.experiment.export import export_tables
from lora_tta.experiment.failures import read_failures, write_failures
from lora_tta.records.clips import Clip, write_manifest
from lora_tta.records.outcome import ClipFailure
from lora_tta.records.results import write_costs, write_results
from lora_tta.records.yardsticks import YARDSTICKS
from lora_tta.stages import evaluate
from lora_tta.stages.paths import (
    ADAPT,
    ADAPT_COSTS,
    BASELINE,
    BASELINE_COSTS,
    BEST,
    CLIPS,
    METRICS,
    REPORT,
    REPORT_COSTS,
    TRIALS,
    YARDSTICK_METRICS,
    YARDSTICKS_FOLDER,
)

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"
REASON = 'the loss is nan, "at" step 3 <of 5>'


def clip(clip_id: str) -> Clip:
    return Clip(
        clip_id, "Class", "class", "a.avi", 65, 24.0, 0, 65, 33, 24, 32, 48, "0", "0", "a.avi", "test"
    )


def failure(clip_id: str, reason: str = REASON) -> ClipFailure:
    return ClipFailure(clip(clip_id), reason)


def test_the_list_of_failed_clips_comes_back_as_it_was_written(tmp_path):
    write_failures(tmp_path, [failure("007"), failure("NA", "out of memory")])
    assert read_failures(tmp_path) == {"007": REASON, "NA": "out of memory"}


def test_where_nothing_failed_there_is_no_list(tmp_path):
    write_failures(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
    assert read_failures(tmp_path) == {}


def test_a_stage_of_which_every_clip_failed_says_why(tmp_path):
    with pytest.raises(UserError, match="all 2 clips failed; a: the loss is nan"):
        export_tables(tmp_path / "stage", [], [failure("a"), failure("b")])


@pytest.fixture
def finished_run(tmp_path, monkeypatch, tiny_model):
    """The outputs of the stages before ``evaluate``: of four clips, one failed in each arm."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS_FILE.read_text())
    assert command(["params", f"model.path={tiny_model}", "evaluation.bootstrap_samples=10"]) == 0
    arms = {
        BASELINE: [make_result(name, 15) for name in ("a", "b", "d")],
        ADAPT: [make_result(name, 16, losses=(0.5,)) for name in ("a", "c", "b")],
    }
    for folder, costs in ((BASELINE, BASELINE_COSTS), (ADAPT, ADAPT_COSTS)):
        write_results(folder, arms[folder])
        write_costs(costs, arms[folder])
    for row in YARDSTICKS:
        write_results(BASELINE / YARDSTICKS_FOLDER / row.name, [make_result(name, 12) for name in "abd"])
    write_failures(BASELINE, [failure("c")])
    write_failures(ADAPT, [failure("d", "out of memory")])
    for folder in (CLIPS, BASELINE / "videos", ADAPT / "videos"):
        for name in "abcd":
            folder.mkdir(parents=True, exist_ok=True)
            write_video(folder / f"{name}.mp4", np.zeros((65, 32, 48, 3), np.uint8), fps=24)
    write_manifest(CLIPS, [clip(name) for name in "abcd"])
    BEST.parent.mkdir(parents=True)
    BEST.write_text(
        json.dumps({"trial": 1, "trials": 2, "failed": 0, "random_start": 10, "point": {"rank": 8}})
    )
    pd.DataFrame({"trial": [0, 1], "psnr": [15.0, 16.0]}).to_csv(TRIALS, index=False)
    return arms


def test_a_clip_that_failed_in_one_arm_is_left_out_of_both_and_listed_in_the_report(finished_run):
    evaluate.main()
    assert {values["clips"] for values in json.loads(METRICS.read_text()).values()} == {2}
    page = REPORT.read_text()
    assert "2 clips failed and are left out of both sides." in page
    assert "c: the loss is nan, &#34;at&#34; step 3 &lt;of 5&gt;; d: out of memory" in page
    assert page.count("<video") == 2 * 3
    assert json.loads(YARDSTICK_METRICS.read_text())["psnr"] == {row.name: 12 for row in YARDSTICKS}


def test_the_summary_counts_the_clips_that_were_compared(finished_run, capsys):
    evaluate.main()
    assert command(["summary"]) == 0
    assert "2 test clips (2 failed and left out), best of 2 trials: rank 8" in capsys.readouterr().out


def test_of_two_equal_runs_only_the_costs_differ(finished_run):
    evaluate.main()
    files = [path for path in REPORT.parent.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in (*files, REPORT_COSTS)}
    write_costs(ADAPT_COSTS, [replace(result, adapt_seconds=77.0) for result in finished_run[ADAPT]])
    evaluate.main()
    assert {path for path in before if path.read_bytes() != before[path]} == {REPORT_COSTS}
    REPORT_COSTS.unlink()
    ADAPT_COSTS.unlink()
    evaluate.main()
    assert {path for path in before if path.read_bytes() != before[path]} == {REPORT_COSTS}


def test_what_limits_the_search_stands_before_the_numbers(finished_run):
    evaluate.main()
    page = REPORT.read_text()
    assert "draws its first 10 trials at random, and the study has 2" in page[: page.index("<h2>Result")]


def test_a_primary_metric_that_was_not_measured_is_one_line(finished_run):
    assert command(["params", "evaluation.primary=lpips_untrained"]) == 0
    with pytest.raises(
        UserError, match=r"evaluation\.primary is lpips_untrained, which was not measured: .*psnr"
    ):
        evaluate.main()
    assert not REPORT.parent.exists()
