"""Paired statistics of two methods measured on the same clips."""

import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from lora_tta.records.metric_table import Direction

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedComparison:
    """Adapted against baseline on the same clips; differences are adapted minus baseline.

    Attributes:
        clips: number of clips.
        baseline: mean over clips.
        adapted: mean over clips.
        difference: mean difference.
        interval_low: lower end of the 95 % bootstrap interval of the mean difference, NaN with one clip.
        interval_high: upper end.
        share_improved: share of clips, 0..1, that are strictly better adapted than not.
        wilcoxon_p: two-sided p value of the Wilcoxon signed-rank test, NaN with one clip.
        direction: whether higher or lower values are better.
    """

    clips: int
    baseline: float
    adapted: float
    difference: float
    interval_low: float
    interval_high: float
    share_improved: float
    wilcoxon_p: float
    direction: Direction

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` if the interval leaves out zero, ``unclear`` if not or if there is none."""
        sign = 1 if self.direction == "maximize" else -1
        if self.interval_low > 0 or self.interval_high < 0:
            return "better" if sign * self.difference > 0 else "worse"
        return "unclear"

    def as_json(self) -> dict[str, int | float | None]:
        """The numbers for a JSON file, NaN as null."""
        return {
            name: None if math.isnan(value) else value
            for name, value in asdict(self).items()
            if name != "direction"
        }


def paired_comparison(
    baseline: pd.Series | np.ndarray,
    adapted: pd.Series | np.ndarray,
    direction: Direction,
    samples: int,
    seed: int,
) -> PairedComparison:
    """Compare two methods on the same clips.

    The interval is the percentile bootstrap over clips: a clip's two values stay together. It is defined
    for constant differences too, unlike the bias-corrected one.

    Args:
        baseline: (clips,) values of one metric.
        adapted: (clips,) values of the same clips in the same order.
        direction: whether higher or lower values are better.
        samples: number of bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: lengths differ, there is no clip, or a value is not finite.
    """
    baseline, adapted = (np.asarray(values, dtype=np.float64) for values in (baseline, adapted))
    if baseline.shape != adapted.shape or baseline.ndim != 1 or not baseline.size:
        raise ValueError(f"expected two series of one length, got {baseline.shape} and {adapted.shape}")
    differences = adapted - baseline
    if not np.isfinite(differences).all():
        raise ValueError("metrics must be finite")
    low, high = _bootstrap_interval(differences, samples, seed)
    improved = differences > 0 if direction == "maximize" else differences < 0
    return PairedComparison(
        clips=len(differences),
        baseline=float(baseline.mean()),
        adapted=float(adapted.mean()),
        difference=float(differences.mean()),
        interval_low=low,
        interval_high=high,
        share_improved=float(improved.mean()),
        wilcoxon_p=_wilcoxon_p(differences),
        direction=direction,
    )


def _bootstrap_interval(differences: np.ndarray, samples: int, seed: int) -> tuple[float, float]:
    if len(differences) < 2:
        return math.nan, math.nan
    interval = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=samples,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _wilcoxon_p(differences: np.ndarray) -> float:
    if len(differences) < 2:
        return math.nan
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)
