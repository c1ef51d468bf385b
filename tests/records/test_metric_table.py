from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
from added_metrics import BRIGHTNESS, add_to_table

from lora_tta.records.metric_table import METRICS, in_table_order, markdown_table, metric

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("row", METRICS, ids=lambda row: row.name)
def test_the_function_of_a_metric_takes_the_ground_truth_if_the_row_says_so(row):
    module, _, name = row.measure.partition(":")
    inputs = set(signature(getattr(import_module(module), name)).parameters)
    assert "generated" in inputs <= {"generated", "target", "distance"}
    assert ("target" in inputs) == row.needs_reference


def test_names_are_unique_and_put_into_the_order_of_the_table():
    names = [row.name for row in METRICS]
    assert len(set(names)) == len(names)
    assert in_table_order([*reversed(names), "unheard_of"]) == names


def test_a_metric_is_found_by_its_name_and_titled_with_its_unit():
    assert metric("psnr").title == "PSNR (dB)"
    assert metric("ssim").title == "SSIM"
    with pytest.raises(KeyError, match="unheard_of"):
        metric("unheard_of")


def test_the_documentations_table_has_one_row_a_metric(monkeypatch):
    add_to_table(monkeypatch, BRIGHTNESS)
    header, rule, *rows = markdown_table().splitlines()
    assert [row.split("`")[1] for row in rows] == [*(row.name for row in METRICS), "brightness"]
    assert {line.count("|") for line in (header, rule, *rows)} == {6}
    assert rows[-1] == (
        "| `brightness` | Brightness (levels) | higher | nothing | Mean of all generated pixels. |"
    )
    assert "ImageNet AlexNet" in next(row for row in rows if row.startswith("| `lpips` "))


def test_the_readme_holds_that_table():
    table = README.read_text().partition("<!-- metrics -->")[2].partition("<!-- /metrics -->")[0]
    assert table.strip() == markdown_table()
