"""Geometry of the report's charts; the template draws them as inline SVG in the page's own colours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from lora_tta.evaluation.statistics import PairedComparison
from lora_tta.records.metric_table import Direction

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 12, 30


@dataclass(frozen=True)
class Tick:
    """A position in pixels of the chart and its label."""

    position: float
    label: str


@dataclass(frozen=True)
class Axes:
    """The drawing area and its ticks, in pixels."""

    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class LineChart:
    """Curves over one x axis; ``lines`` maps a name to SVG polyline points."""

    axes: Axes
    lines: dict[str, str]


@dataclass(frozen=True)
class Bar:
    """One clip's difference."""

    x: float
    y: float
    width: float
    height: float
    improved: bool
    title: str


@dataclass(frozen=True)
class BarChart:
    """Sorted differences; ``zero`` and ``mean`` are heights in pixels."""

    axes: Axes
    bars: list[Bar]
    zero: float
    mean: float


@dataclass(frozen=True)
class IntervalMark:
    """A mean difference and its interval in 0..100: 50 is no difference, above is better."""

    mean: float
    low: float | None
    high: float | None


def line_chart(x: Sequence[float], curves: Mapping[str, Sequence[float]]) -> LineChart:
    """Curves that share their x values; y runs over their range, not from zero."""
    x_low, x_high = min(x), max(x)
    values = np.concatenate([np.asarray(curve, dtype=float) for curve in curves.values()])
    y_ticks = _tick_values(float(values.min()), float(values.max()))
    x_scale = _Scale(x_low, x_high, LEFT, WIDTH - RIGHT)
    y_scale = _Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    x_ticks = [tick for tick in _tick_values(x_low, x_high, integer=True) if x_low <= tick <= x_high]
    lines = {
        name: " ".join(f"{x_scale(at):.2f},{y_scale(value):.2f}" for at, value in zip(x, curve, strict=True))
        for name, curve in curves.items()
    }
    return LineChart(Axes(_ticks(x_ticks, x_scale), _ticks(y_ticks, y_scale)), lines)


def difference_chart(differences: Mapping[str, float], direction: Direction, decimals: int) -> BarChart:
    """One bar a clip, from the largest improvement to the largest loss."""
    sign = 1 if direction == "maximize" else -1
    ordered = sorted(differences.items(), key=lambda item: -sign * item[1])
    values = [value for _, value in ordered]
    y_ticks = _tick_values(min(0.0, *values), max(0.0, *values))
    y_scale = _Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    slot = (WIDTH - LEFT - RIGHT) / len(ordered)
    bar_width = min(0.8 * slot, 28)
    zero = y_scale(0.0)
    bars = [
        Bar(
            x=round(LEFT + (index + 0.5) * slot - bar_width / 2, 2),
            y=round(min(zero, y_scale(value)), 2),
            width=round(bar_width, 2),
            height=round(abs(zero - y_scale(value)), 2),
            improved=sign * value > 0,
            title=f"{clip_id}: {value:+.{decimals}f}",
        )
        for index, (clip_id, value) in enumerate(ordered)
    ]
    return BarChart(
        Axes([], _ticks(y_ticks, y_scale)), bars, round(zero, 2), round(y_scale(float(np.mean(values))), 2)
    )


def interval_mark(comparison: PairedComparison) -> IntervalMark:
    """Place a comparison on an axis as wide as its own largest value both ways, better to the right."""
    sign = 1 if comparison.direction == "maximize" else -1
    bounds = (comparison.interval_low, comparison.interval_high)
    ends = sorted(sign * value for value in bounds if not math.isnan(value))
    mean = sign * comparison.difference
    reach = 1.15 * max(abs(value) for value in [mean, *ends]) or 1.0
    scale = _Scale(-reach, reach, 0, 100)
    low, high = (round(scale(end), 2) for end in ends) if ends else (None, None)
    return IntervalMark(round(scale(mean), 2), low, high)


def _tick_values(low: float, high: float, integer: bool = False) -> list[float]:
    if low == high:
        low, high = low - 0.5, high + 0.5
    return list(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=integer).tick_values(low, high))


def _ticks(values: Sequence[float], scale: "_Scale") -> list[Tick]:
    decimals = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9)) if len(values) > 1 else 0
    labels = (f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}") for value in values)
    return [Tick(round(scale(value), 2), label) for value, label in zip(values, labels, strict=True)]


class _Scale:
    """Linear map of the range ``low..high`` to pixels ``start..end``."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.start = low, start
        self.slope = (end - start) / (high - low) if high > low else 0.0

    def __call__(self, value: float) -> float:
        return self.start + self.slope * (value - self.low)
