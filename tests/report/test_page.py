import base64
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from added_metrics import BRIGHTNESS, add_to_table, with_brightness
from clip_results import make_result

from lora_tta.data.video import write_video
from lora_tta.errors import UserError
from lora_tta.evaluation.comparison import compare
from lora_tta.records.results import mean_over_samples
from lora_tta.records.yardsticks import LAST_FRAME, OTHER_SEED, RECONSTRUCTION, YARDSTICKS
from lora_tta.report.caveats import ANSWERS
from lora_tta.report.page import ClipVideos, ReportContext, write_costs_script, write_report

HOSTILE = "<script>alert('x')</script> & \"co\""
VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """Start tags with their attributes, and the text outside of styles and scripts."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> ClipVideos:
    folder = tmp_path_factory.mktemp("videos")
    for index, name in enumerate(("target", "baseline", "adapted")):
        write_video(folder / f"{name}.mp4", np.full((65, 32, 48, 3), 40 + 60 * index, np.uint8), fps=24)
    return ClipVideos(*(folder / f"{name}.mp4" for name in ("target", "baseline", "adapted")))


@pytest.fixture(scope="module")
def context(videos) -> ReportContext:
    """Five clips whose PSNR changes by -1, 0, 1, 2 and 3 dB; one has a hostile class."""
    classes = ["Archery", "Drift", HOSTILE, "Orbit", "Swing"]
    baseline = [make_result(f"clip_{i}", 15 + i, class_name=classes[i]) for i in range(5)]
    adapted = [
        make_result(f"clip_{i}", 14 + 2 * i, losses=(0.5, 0.25 + i), class_name=classes[i]) for i in range(5)
    ]
    return ReportContext(
        title="Adaptation of <five> clips",
        baseline=baseline,
        adapted=adapted,
        comparisons=compare(baseline, adapted, samples=500, seed=0),
        yardsticks={},
        luck={},
        primary="psnr",
        fvd={},
        search_comparisons={},
        search_yardsticks={},
        videos={result.clip_id: videos for result in baseline},
        max_videos=3,
        fps=24,
        conditioning_frames=33,
        num_frames=65,
        captions={result.clip_id: f"words of {result.clip_id}" for result in baseline},
        settings={"adaptation.targets": ["attention", "mlp"], "data.root": HOSTILE, "data.split_list": None},
        best_trial={"rank": 8, "learning_rate": 2e-4},
        notices=["Numbers of a small model."],
        untrained_because=None,
        failures={},
        costs_script="../costs/report.js",
        trials=pd.DataFrame({"number": [0, 1], "state": ["COMPLETE", HOSTILE], "psnr": [15.5, np.nan]}),
        figures=["<div id='importances'>figure</div>"],
    )


@pytest.fixture(scope="module")
def page(context, tmp_path_factory) -> Page:
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_report(file, context)
    return Page(file)


def test_the_page_is_well_formed_and_closes_what_it_opens(page):
    assert page.open == []


def test_the_page_needs_nothing_outside_itself_and_costs_lie_beside_it(page):
    assert "http" not in page.source
    sources = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset")
    ]
    others = [source for source in sources if not source.startswith("data:video/mp4;base64,")]
    assert others == ["../costs/report.js"]
    assert not any(tag in ("link", "iframe", "img", "object") for tag, _ in page.tags)
    assert "url(" not in page.source
    assert "@import" not in page.source


def test_each_shown_clip_has_its_three_videos_side_by_side(page, videos):
    shown = page.all("video")
    assert [video["aria-label"] for video in shown[:3]] == [
        "Ground truth of clip_4",
        "Baseline of clip_4",
        "Adapted of clip_4",
    ]
    files = [base64.b64decode(video["src"].partition(",")[2]) for video in shown[:3]]
    assert files == [path.read_bytes() for path in (videos.target, videos.baseline, videos.adapted)]
    assert all({"controls", "muted", "loop", "playsinline"} <= video.keys() for video in shown)


def test_shown_clips_spread_from_the_largest_gain_to_the_largest_loss(page):
    labels = [video["aria-label"] for video in page.all("video")]
    assert [label.split()[-1] for label in labels[1::3]] == ["clip_4", "clip_2", "clip_0"]
    assert "3 of 5 clips, spread evenly" in page.words()


def test_every_clip_is_shown_when_there_is_room(context, tmp_path):
    write_report(tmp_path / "report.html", replace(context, max_videos=100))
    page = Page(tmp_path / "report.html")
    assert len(page.all("video")) == 15
    assert "All 5 clips, from" in page.words()


def test_names_from_folders_and_settings_are_escaped(page):
    assert "<script>alert" not in page.source
    assert "Adaptation of <five> clips" in page.text
    assert page.text.count(HOSTILE) >= 3  # clip table, trials, settings
    assert page.all("script") == [{"src": "../costs/report.js"}, {}]


def test_the_headline_gives_means_difference_interval_and_share(page, context):
    psnr = context.comparisons["psnr"]
    interval = f"{psnr.interval_low:+.3f} to {psnr.interval_high:+.3f}"
    row = f"PSNR (dB)↑ higher is better, primary 17.00 18.00 +1.000 {interval} 3 of 5 (60 %)"
    assert row.replace("-", "\N{MINUS SIGN}") in page.words()
    assert "LPIPS↓ lower is better" in page.words()


def test_every_clip_has_a_bar_a_metric_and_a_sortable_row(page):
    assert sum("bar" in (rect.get("class") or "").split() for rect in page.all("rect")) == 4 * 5
    for index in range(5):
        assert {"data-value": f"clip_{index}"} in page.all("td")
    assert {"data-type": "number"} in page.all("th")


def test_curves_show_both_methods(page):
    classes = [line["class"] for line in page.all("polyline")]
    assert classes.count("line baseline") == classes.count("line adapted") == 4
    assert classes.count("line mean") == 1


def test_settings_trials_notices_and_figures_are_shown(page):
    words = page.words()
    assert "attention, mlp" in words
    assert "learning_rate0.0002" in words
    assert "Numbers of a small model." in words
    assert {"id": "importances"} in page.all("div")
    assert "nan" not in words


def test_the_untrained_distance_raises_the_alarm(context, tmp_path):
    baseline = [make_result("a", 15, perceptual="lpips_untrained")]
    adapted = [make_result("a", 16, perceptual="lpips_untrained")]
    untrained = replace(
        context,
        baseline=baseline,
        adapted=adapted,
        comparisons=compare(baseline, adapted, samples=10, seed=0),
        untrained_because="the file is missing",
    )
    write_report(tmp_path / "report.html", untrained)
    page = Page(tmp_path / "report.html")
    assert {"class": "alarm", "role": "alert"} in page.all("div")
    assert "LPIPS was not measured." in page.text
    assert "Reason: the file is missing." in page.words()
    assert "LPIPS↓" not in page.text


def test_the_trained_distance_and_a_run_without_failures_raise_none(page):
    assert {"class": "alarm", "role": "alert"} not in page.all("div")


def costs_of(file: Path) -> dict:
    """What the script beside the page assigns."""
    return json.loads(file.read_text().removeprefix("window.COSTS = ").removesuffix(";\n"))


def test_the_page_is_the_same_to_the_byte_whatever_the_work_cost(context, tmp_path):
    sides = {
        "measured": (context.baseline, context.adapted),
        "elsewhere": (
            context.baseline,
            [replace(r, device="H100", adapt_seconds=0.1) for r in context.adapted],
        ),
        "unknown": tuple(
            [replace(r, device=None, adapt_seconds=None, generate_seconds=None) for r in side]
            for side in (context.baseline, context.adapted)
        ),
    }
    for name, (baseline, adapted) in sides.items():
        write_report(tmp_path / f"{name}.html", replace(context, baseline=baseline, adapted=adapted))
        write_costs_script(tmp_path / f"{name}.js", baseline, adapted)
    assert len({(tmp_path / f"{name}.html").read_bytes() for name in sides}) == 1
    assert len({(tmp_path / f"{name}.js").read_bytes() for name in sides}) == 3


def test_the_script_beside_the_page_fills_its_cells_in(page, context, tmp_path):
    write_costs_script(tmp_path / "costs" / "report.js", context.baseline, context.adapted)
    costs = costs_of(tmp_path / "costs" / "report.js")
    cells = page.all("td")
    assert {cell["data-mean-cost"] for cell in cells if "data-mean-cost" in cell} == set(costs["means"])
    assert costs["means"]["adapted.adapt_seconds_per_clip"] == "3.00 s"
    assert costs["means"]["baseline.peak_memory_mib"] == "3072.00 MiB"
    assert {cell["data-clip-cost"] for cell in cells if "data-clip-cost" in cell} == set(costs["clips"])
    assert costs["clips"]["clip_0"] == {"adapt": 3.0, "generate": 2.25}
    assert costs["device"] == "cpu"


def test_costs_that_are_unknown_leave_the_en_dashes_of_the_page(page, context, tmp_path):
    adapted = [replace(context.adapted[0], device=None, adapt_seconds=None), *context.adapted[1:]]
    write_costs_script(tmp_path / "report.js", context.baseline, adapted)
    costs = costs_of(tmp_path / "report.js")
    assert {name.partition(".")[0] for name in costs["means"]} == {"baseline"}
    assert costs["clips"]["clip_0"]["adapt"] is None
    assert costs["clips"]["clip_1"]["adapt"] == 3.0
    words = page.words()
    assert "Adaptation\N{EN DASH}\N{EN DASH}" in words
    assert "Peak memory\N{EN DASH}\N{EN DASH}" in words
    assert "kept beside this page, in ../costs/report.js." in words


def test_a_metric_without_a_series_and_ground_truth_is_in_tables_and_bars_only(
    context, tmp_path, monkeypatch
):
    add_to_table(monkeypatch, BRIGHTNESS)
    baseline, adapted = (
        [with_brightness(result, level) for result in side]
        for level, side in ((100.0, context.baseline), (102.5, context.adapted))
    )
    comparisons = compare(baseline, adapted, samples=10, seed=0)
    extended = replace(context, baseline=baseline, adapted=adapted, comparisons=comparisons)
    write_report(tmp_path / "report.html", extended)
    page = Page(tmp_path / "report.html")
    assert "Brightness (levels)↑ higher is better, secondary 100.0 102.5 +2.50" in page.words()
    assert "Brightness: Mean of all generated pixels." in page.words()
    assert sum("bar" in (rect.get("class") or "").split() for rect in page.all("rect")) == 5 * 5
    assert [line["class"] for line in page.all("polyline")].count("line adapted") == 4
    captions = page.words().partition("Videos")[2].partition("All clips")[0]
    assert "LPIPS" in captions
    assert "Brightness" not in captions
    assert "Temporal consistency" not in captions


def test_clips_that_were_left_as_they_were_are_no_failures(context, tmp_path):
    baseline, adapted = [make_result(name, 15) for name in "abcd"], [make_result("a", 16)]
    adapted += [make_result(name, 15) for name in "bcd"]
    alike = replace(context, comparisons=compare(baseline, adapted, samples=10, seed=0))
    write_report(tmp_path / "report.html", alike)
    words = Page(tmp_path / "report.html").words()
    assert "improves 25 % of them (95 % interval 5 to 70 %); 75 % are left as they were." in words


def test_one_clip_without_videos_search_or_losses_still_makes_a_page(context, tmp_path):
    baseline, adapted = [make_result("a", 15)], [make_result("a", 16)]
    bare = replace(
        context,
        baseline=baseline,
        adapted=adapted,
        comparisons=compare(baseline, adapted, samples=10, seed=0),
        videos={},
        best_trial=None,
        trials=None,
        figures=[],
        notices=[],
    )
    write_report(tmp_path / "report.html", bare)
    page = Page(tmp_path / "report.html")
    assert page.all("video") == []
    assert (
        "on average over 1 test clip and improves 100 % of them (95 % interval 21 to 100 %)." in page.words()
    )
    assert "There are too few held-out clips to say whether adaptation helps." in page.words()
    assert "nan" not in page.text
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_results_of_different_clips_make_no_page(context, tmp_path):
    with pytest.raises(UserError, match="different clips"):
        write_report(tmp_path / "report.html", replace(context, adapted=context.adapted[1:]))
    assert list(tmp_path.iterdir()) == []


def test_costs_of_different_devices_are_not_set_side_by_side(tmp_path):
    baseline, adapted = (make_result("a", 20.0, device=device) for device in ("cpu", "NVIDIA H100"))
    write_costs_script(tmp_path / "same.js", [baseline], [replace(adapted, device="cpu")])
    write_costs_script(tmp_path / "other.js", [baseline], [adapted])
    same, other = ((tmp_path / name).read_text() for name in ("same.js", "other.js"))
    assert '"device": "cpu"' in same
    assert "baseline.generate_seconds_per_clip" in same
    assert "not compared" in other
    assert "baseline.generate_seconds_per_clip" not in other


def test_the_clips_that_chose_the_settings_stand_apart_and_are_called_so(context, tmp_path):
    chose = [make_result("chosen_by", 15)], [make_result("chosen_by", 22.25)]
    write_report(
        tmp_path / "report.html", replace(context, search_comparisons=compare(*chose, samples=10, seed=0))
    )
    source = (tmp_path / "report.html").read_text()
    lead = source[source.index('class="lead"') : source.index("<h2>Result")]
    assert "over 5 test clips" in lead
    assert "7.25" not in lead
    apart = source[source.index("The clips that chose the settings") :]
    assert "+7.25" in apart[: apart.index("<h2>")]
    assert "chosen_by" not in source


def test_the_answer_is_given_in_the_primary_metric_and_the_others_are_called_secondary(context, tmp_path):
    write_report(tmp_path / "report.html", replace(context, primary="lpips"))
    source = (tmp_path / "report.html").read_text()
    lead = source[source.index('class="lead"') : source.index("<h2>Result")]
    assert "It changes LPIPS by" in lead
    assert "PSNR" not in lead
    assert source.count("primary</span>") == 1
    assert source.count("secondary</span>") == len(context.comparisons) - 1


def test_the_yardsticks_stand_beside_both_arms_and_in_the_curves(context, tmp_path):
    yardsticks = {
        row.name: [make_result(result.clip_id, psnr) for result in context.baseline]
        for row, psnr in zip(YARDSTICKS, (11.25, 33.75, 17.5), strict=True)
    }
    luck = compare(context.baseline, yardsticks[OTHER_SEED], samples=10, seed=0)
    write_report(tmp_path / "report.html", replace(context, yardsticks=yardsticks, luck=luck))
    source = (tmp_path / "report.html").read_text()
    table = source[source.index('id="yardsticks"') :]
    row = table[table.index("PSNR") : table.index("SSIM")]
    assert re.findall(r"<td>([^<]*)</td>", row)[:5] == ["17.00", "18.00", "11.25", "33.75", "+0.500"]
    for name in (LAST_FRAME, RECONSTRUCTION):
        assert f'class="line {name}"' in source
    assert f'class="line {OTHER_SEED}"' not in source


def test_the_spread_within_clips_stands_under_the_result_or_that_it_is_not_known(page, context, tmp_path):
    assert "There is one sample of each clip" in page.words()
    arms = [
        [
            mean_over_samples([result, make_result(result.clip_id, result.metrics.summary["psnr"] + added)])
            for result in arm
        ]
        for arm, added in ((context.baseline, 1.0), (context.adapted, 3.0))
    ]
    comparisons = compare(*arms, samples=10, seed=0)
    write_report(
        tmp_path / "report.html",
        replace(context, baseline=arms[0], adapted=arms[1], comparisons=comparisons),
    )
    source = (tmp_path / "report.html").read_text()
    assert "Oracle" in source
    assert "mean of 2 samples" in source
    # Differences grow by 2 from one sample to the other.
    assert f"PSNR {math.sqrt(2):.3f} and" in source


def test_the_best_and_the_worst_clips_and_classes_are_named(context, tmp_path):
    changes = {"a": 3.0, "b": -1.0, "c": 0.5, "d": -4.0, "e": 1.0, "f": 2.0, "g": 0.0, "h": -2.0}
    classes = {clip_id: "Diving" if clip_id in "abcd" else "Rowing" for clip_id in changes}
    arms = [
        [
            make_result(clip_id, 15 + (change if adapted else 0), class_name=classes[clip_id])
            for clip_id, change in changes.items()
        ]
        for adapted in (False, True)
    ]
    comparisons = compare(*arms, samples=10, seed=0)
    write_report(
        tmp_path / "report.html",
        replace(
            context, baseline=arms[0], adapted=arms[1], comparisons=comparisons, videos={}, yardsticks={}
        ),
    )
    source = (tmp_path / "report.html").read_text()
    table = source[source.index('id="extremes"') : source.index("<h2>All clips")]
    rows = re.findall(r"<tr><th>(\w+)</th>", table)
    assert rows == ["Clips", "a", "f", "e", "b", "h", "d", "Classes", "Rowing", "Diving"]
    diving = table[table.index("Diving") :]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", diving)[:5] == [
        "4",
        "15.00",
        "14.62",
        "\N{MINUS SIGN}0.375",
        "2",
    ]


def lead_of(context, tmp_path) -> str:
    write_report(tmp_path / "report.html", context)
    source = (tmp_path / "report.html").read_text()
    return source[source.index('class="lead"') : source.index("<h2>Result")]


@pytest.mark.parametrize(
    ("gain", "answer"),
    [
        (1.0, "Adaptation helps on held-out clips."),
        (-1.0, "Adaptation harms on held-out clips."),
        (0.0, "These clips do not show whether adaptation helps."),
    ],
)
def test_the_first_sentence_follows_the_numbers(context, tmp_path, gain, answer):
    baseline = [make_result(f"clip_{i}", 15 + i) for i in range(8)]
    adapted = [make_result(f"clip_{i}", 15 + i + gain + 0.1 * (-1) ** i) for i in range(8)]
    compared = compare(baseline, adapted, samples=500, seed=0)
    lead = lead_of(
        replace(context, baseline=baseline, adapted=adapted, comparisons=compared, videos={}), tmp_path
    )
    assert [sentence in lead for sentence in ANSWERS.values()].count(True) == 1
    assert answer in lead
    # The other metrics of these results follow PSNR.
    others = {1.0: "get better.", -1.0: "get worse."}
    assert (others[gain] in lead) if gain else not any(words in lead for words in others.values())


def test_yardsticks_stand_in_every_table_of_results(context, tmp_path):
    still = [make_result(f"clip_{i}", 10.25 + i, class_name=context.baseline[i].class_name) for i in range(5)]
    chose = [make_result("chosen_by", 15)], [make_result("chosen_by", 16)]
    write_report(
        tmp_path / "report.html",
        replace(
            context,
            yardsticks={LAST_FRAME: still},
            search_comparisons=compare(*chose, samples=10, seed=0),
            search_yardsticks={LAST_FRAME: [make_result("chosen_by", 8.125)]},
        ),
    )
    source = (tmp_path / "report.html").read_text()
    tables = {
        title: source[source.index(title) :].partition("</table>")[0]
        for title in (
            "What the numbers are worth",
            "The clips that chose the settings",
            "Best and worst in",
            "All clips",
        )
    }
    assert "12.25" in tables["What the numbers are worth"]
    assert "8.12" in tables["The clips that chose the settings"]
    assert "14.25" in tables["Best and worst in"]
    assert all(f"{10.25 + i:.2f}" in tables["All clips"] for i in range(5))


def test_fvd_is_a_row_where_it_is_measured(context, tmp_path):
    still = [make_result(f"clip_{i}", 10 + i, class_name=context.baseline[i].class_name) for i in range(5)]
    measured = replace(
        context,
        yardsticks={LAST_FRAME: still},
        fvd={"baseline": 412.5, "adapted": 398.25, LAST_FRAME: 700.0},
    )
    write_report(tmp_path / "report.html", measured)
    page = Page(tmp_path / "report.html")
    assert page.open == []
    row = page.source[page.source.index('<tr id="fvd">') :].partition("</tr>")[0]
    assert re.findall(r"<td>([^<]*)</td>", row) == ["412.5", "398.2", "700.0"]
    write_report(tmp_path / "without.html", replace(measured, fvd={}))
    assert "FVD" not in (tmp_path / "without.html").read_text()
