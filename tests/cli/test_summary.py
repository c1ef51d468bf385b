import json

import pytest
from clip_results import make_result

from lora_tta.cli.main import main
from lora_tta.evaluation.comparison import compare
from lora_tta.records.results import write_costs, write_results
from lora_tta.records.yardsticks import YARDSTICKS
from lora_tta.stages.paths import (
    ADAPT,
    ADAPT_COSTS,
    BASELINE,
    BASELINE_COSTS,
    BEST,
    METRICS,
    REPORT,
    SEARCH_CLIPS_METRICS,
    YARDSTICK_METRICS,
)


@pytest.fixture
def finished_run(workspace):
    """What a run leaves behind that the summary reads: two clips, with metrics and costs."""
    baseline = [make_result("a", 15), make_result("b", 16)]
    adapted = [make_result("a", 16, losses=(0.5,)), make_result("b", 17, losses=(0.5,))]
    for folder, costs, results in ((BASELINE, BASELINE_COSTS, baseline), (ADAPT, ADAPT_COSTS, adapted)):
        write_results(folder, results)
        write_costs(costs, results)
    comparisons = compare(baseline, adapted, samples=10, seed=0)
    METRICS.parent.mkdir(parents=True)
    METRICS.write_text(json.dumps({name: values.as_json() for name, values in comparisons.items()}))
    SEARCH_CLIPS_METRICS.write_text(METRICS.read_text())
    means = {row.name: 10.0 + number for number, row in enumerate(YARDSTICKS)}
    YARDSTICK_METRICS.write_text(json.dumps({"psnr": means, "ssim": means}))
    BEST.parent.mkdir(parents=True)
    BEST.write_text(json.dumps({"trials": 6, "point": {"rank": 8, "learning_rate": 1e-4}}))


def printed(capsys) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_summary_without_a_run_says_what_to_do(workspace, capsys):
    assert main(["summary"]) == 2
    assert "dvc repro" in capsys.readouterr().err


def test_summary_compares_every_metric_and_cost_and_names_the_report(finished_run, capsys):
    assert main(["summary"]) == 0
    lines = printed(capsys)
    assert lines[0] == "2 test clips, best of 6 trials: rank 8, learning_rate 0.0001"
    assert any(line.startswith("on the 2 clips that chose the settings: PSNR +") for line in lines)
    assert "PSNR (dB) 15.5000 16.5000 +1.0000 +1.0000 .. +1.0000 100%" in lines
    assert "LPIPS 0.6125 0.5875 -0.0250 -0.0250 .. -0.0250 100%" in lines
    assert "VAE of the truth: PSNR 11.0000, SSIM 11.0000" in lines
    assert "Adaptation (s) 0.00 1.50" in lines
    assert "Peak memory (MiB) 3072.00 3072.00" in lines
    assert f"report: {REPORT}" in lines


def test_summary_says_that_no_trial_was_feasible(finished_run, capsys):
    best = json.loads(BEST.read_text())
    BEST.write_text(json.dumps(best | {"feasible": 0}))
    assert main(["summary"]) == 0
    assert printed(capsys)[1].startswith("no trial was feasible")
    BEST.write_text(json.dumps(best | {"feasible": 2}))
    assert main(["summary"]) == 0
    assert not any("feasible" in line for line in printed(capsys))


def test_summary_leaves_out_costs_that_were_not_measured_here(finished_run, capsys):
    ADAPT_COSTS.unlink()
    assert main(["summary"]) == 0
    lines = printed(capsys)
    assert any(line.startswith("PSNR") for line in lines)
    assert not any(line.startswith(("Adaptation", "Generation", "Peak")) for line in lines)
