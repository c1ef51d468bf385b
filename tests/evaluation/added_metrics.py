"""Metrics as a researcher adds them: a function and a row of the table, here with and without a value."""

from dataclasses import replace

import pytest
from torch import Tensor

from lora_tta.evaluation import metrics
from lora_tta.evaluation.measurement import Measurement
from lora_tta.records import metric_table, results
from lora_tta.records.metric_table import ClipMetrics, Metric
from lora_tta.records.results import ClipResult


def brightness(generated: Tensor) -> Measurement:
    """Of a whole clip, without a ground truth and without a series."""
    return Measurement(float(generated.mean()))


def undefined(generated: Tensor) -> Measurement:
    """A value that no clip has."""
    return Measurement(float(generated.mean()) * float("nan"))


BRIGHTNESS = Metric(
    name="brightness",
    label="Brightness",
    unit="levels",
    direction="maximize",
    decimals=1,
    difference_decimals=2,
    per_frame=False,
    needs_reference=False,
    weights=None,
    measure="added_metrics:brightness",
    meaning="Mean of all generated pixels.",
)
UNDEFINED = replace(BRIGHTNESS, name="undefined", measure="added_metrics:undefined")


def add_to_table(monkeypatch: pytest.MonkeyPatch, row: Metric) -> None:
    """The table of metrics with one more row, until the end of the test."""
    rows = (*metric_table.METRICS, row)
    for module in (metric_table, results, metrics):
        monkeypatch.setattr(module, "METRICS", rows)


def with_brightness(result: ClipResult, value: float) -> ClipResult:
    """The same result, measured with the added metric too."""
    measured = result.metrics
    return replace(result, metrics=ClipMetrics(measured.per_frame, measured.summary | {"brightness": value}))
