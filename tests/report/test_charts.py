import math

import pytest

from lora_tta.evaluation.statistics import PairedComparison
from lora_tta.report.charts import difference_chart, interval_mark, line_chart


def comparison(difference: float, low: float, high: float, direction: str) -> PairedComparison:
    return PairedComparison(9, 15.0, 15.0 + difference, difference, low, high, 0.5, 0.5, direction)


def test_a_line_chart_keeps_its_curves_between_its_outer_ticks():
    chart = line_chart([34, 35, 65], {"baseline": [15.2, 15.9, 14.1], "adapted": [15.3, 16.4, 14.6]})
    assert list(chart.lines) == ["baseline", "adapted"]
    points = [tuple(map(float, point.split(","))) for point in chart.lines["adapted"].split()]
    assert [points[0][0], points[-1][0]] == [chart.axes.left, chart.axes.right]
    assert points[1][1] < points[0][1] < points[2][1]  # pixels count downwards
    assert all(chart.axes.top <= y <= chart.axes.bottom for _, y in points)
    assert [tick.label for tick in chart.axes.y_ticks] == ["14.0", "14.5", "15.0", "15.5", "16.0", "16.5"]
    assert [tick.label for tick in chart.axes.x_ticks] == ["40", "50", "60"]


def test_a_flat_curve_of_one_point_still_has_axes():
    chart = line_chart([1], {"mean": [0.5]})
    assert math.isfinite(float(chart.lines["mean"].split(",")[1]))
    assert len(chart.axes.y_ticks) > 1


@pytest.mark.parametrize(
    ("direction", "order"), [("maximize", ["a", "c", "b"]), ("minimize", ["b", "c", "a"])]
)
def test_bars_run_from_the_largest_improvement_to_the_largest_loss(direction, order):
    chart = difference_chart({"a": 0.5, "b": -0.25, "c": 0.1}, direction, decimals=2)
    assert [bar.title.split(":")[0] for bar in chart.bars] == order
    by_clip = {bar.title.split(":")[0]: bar for bar in chart.bars}
    assert [by_clip[clip].improved for clip in "abc"] == [
        direction == "maximize",
        direction == "minimize",
        direction == "maximize",
    ]
    assert by_clip["a"].y + by_clip["a"].height == pytest.approx(chart.zero, abs=0.02)
    assert by_clip["b"].y == pytest.approx(chart.zero)
    assert by_clip["a"].height == pytest.approx(2 * by_clip["b"].height, abs=0.05)


def test_an_interval_lies_on_the_side_of_its_meaning():
    gain = interval_mark(comparison(0.2, 0.1, 0.3, "maximize"))
    assert 50 < gain.low < gain.mean < gain.high < 100
    fall = interval_mark(comparison(-0.2, -0.3, -0.1, "minimize"))
    assert (fall.low, fall.mean, fall.high) == (gain.low, gain.mean, gain.high)


def test_an_interval_mark_without_interval_or_difference():
    assert interval_mark(comparison(0.2, math.nan, math.nan, "maximize")).low is None
    assert interval_mark(comparison(0.0, 0.0, 0.0, "maximize")).mean == 50
