"""The report as a browser shows it: headless Chromium, where it is installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from clip_results import make_result

from lora_tta.evaluation.comparison import compare
from lora_tta.report.page import ReportContext, write_costs_script, write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BASELINE = [make_result("clip_1", 15.0), make_result("clip_2", 16.0)]
ADAPTED = [make_result("clip_1", 16.0, losses=(0.5, 0.4)), make_result("clip_2", 16.5, losses=(0.5, 0.4))]


@pytest.fixture(scope="module")
def browse():
    """Opens a page, lets its scripts run, and returns the resulting HTML."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium is installed")

    def browse(page: Path) -> str:
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
        shown = subprocess.run(
            [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        return shown.stdout

    return browse


@pytest.fixture
def page(tmp_path) -> Path:
    path = tmp_path / "evaluate" / "report.html"
    write_report(
        path,
        ReportContext(
            title="A report",
            baseline=BASELINE,
            adapted=ADAPTED,
            comparisons=compare(BASELINE, ADAPTED, samples=100, seed=0),
            yardsticks={},
            luck={},
            primary="psnr",
            fvd={},
            search_comparisons={},
            search_yardsticks={},
            videos={},
            max_videos=0,
            fps=24,
            conditioning_frames=33,
            num_frames=65,
            captions={},
            settings={},
            best_trial=None,
            notices=[],
            untrained_because=None,
            failures={},
            costs_script="../costs/report.js",
            trials=None,
            figures=[],
        ),
    )
    return path


def costs_of(html: str) -> dict[str, str]:
    """The shown mean costs by the name of their cell."""
    return dict(re.findall(r'data-mean-cost="([\w.]+)">([^<]*)<', html))


def test_costs_are_filled_in_from_the_script_beside_the_page(browse, page, tmp_path):
    write_costs_script(tmp_path / "costs" / "report.js", BASELINE, ADAPTED)
    html = browse(page)
    costs = costs_of(html)
    assert costs["baseline.generate_seconds_per_clip"] == "2.25 s"
    assert costs["adapted.adapt_seconds_per_clip"] == "3.00 s"
    assert re.search(r'data-clip-cost="clip_1" data-cost="adapt">3\.00<', html)
    assert "Measured on: " in html
    assert re.search(r'id="cost">It costs <span[^>]*>3\.00 s</span> of adaptation a clip', html)


def test_without_the_script_the_page_shows_a_dash_and_says_where_costs_are(browse, page):
    html = browse(page)
    assert set(costs_of(html).values()) == {"\N{EN DASH}"}
    assert 'id="cost" hidden' in html
    assert "../costs/report.js" in re.search(r'id="costs-note">([^<]*)<', html)[1]
