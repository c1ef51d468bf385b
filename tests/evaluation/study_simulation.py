"""Many simulated studies at once, judged as ``paired_comparison`` judges one."""

from collections.abc import Callable

import numpy as np
from scipy import stats

from lora_tta.evaluation.statistics import effect_seen, mean_interval, signed_rank_test

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

RUNS, RESAMPLES = 2000, 500
# Studies share resamples within a block only, so that no unlucky set of them shifts all intervals.
BLOCK = 200


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Differences of mean 0 and spread 1, as are the others."""
    return rng.normal(size=shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Exponential: most a little below zero, some far above."""
    return rng.exponential(size=shape) - 1


def heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Student's t with 3 degrees of freedom."""
    return rng.standard_t(3, size=shape) / np.sqrt(3)


def at_most(share: float, runs: int = RUNS) -> float:
    """The highest share of runs that a true share gives but once in a thousand times."""
    return float(stats.binom.isf(0.001, runs, share)) / runs


def at_least(share: float, runs: int = RUNS) -> float:
    """The lowest one."""
    return 1 - at_most(1 - share, runs)


def intervals(draw: Draw, clips: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences (RUNS, clips) of mean 0, and both ends of the intervals of their means (RUNS,)."""
    rng = np.random.default_rng([seed, clips])
    blocks = [draw(rng, (BLOCK, clips)) for _ in range(RUNS // BLOCK)]
    ends = [mean_interval(block, RESAMPLES, rng) for block in blocks]
    low, high = (np.concatenate(each) for each in zip(*ends, strict=True))
    return np.concatenate(blocks), low, high


def effects(draw: Draw, clips: int, effect: float = 0.0) -> np.ndarray:
    """The sign of the effect (RUNS,) that studies see whose differences have this mean.

    A shift of all clips shifts the interval, so that no study has to be resampled again.
    """
    differences, low, high = intervals(draw, clips)
    return effect_seen(low + effect, high + effect, *signed_rank_test(differences + effect))
