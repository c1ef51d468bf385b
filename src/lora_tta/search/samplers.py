"""Samplers and pruners by the names that ``params.yaml`` knows."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from lora_tta.config import SearchParams
from lora_tta.records.space import Choices, Dimensions, Range, all_points, is_whole, size

SAMPLERS = {
    "random": RandomSampler,
    "tpe": TPESampler,
    "gp": GPSampler,
    "qmc": QMCSampler,
    "nsgaii": NSGAIISampler,
}
# Optuna's name for the number of trials that a sampler draws at random before it learns, and its default.
RANDOM_START = {
    "tpe": ("n_startup_trials", 10),
    "gp": ("n_startup_trials", 10),
    "nsgaii": ("population_size", 50),
}
PRUNERS: dict[str, type[BasePruner]] = {
    "none": NopPruner,
    "wilcoxon": WilcoxonPruner,
    "median": MedianPruner,
    "successive_halving": SuccessiveHalvingPruner,
    "hyperband": HyperbandPruner,
}
TAKEN_STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
# Spaces up to this size are listed; in larger ones, free points are drawn for, at most so often.
MAX_LISTED = 10_000


def distribution_of(dimension: Choices | Range) -> BaseDistribution:
    """Optuna's name of a dimension."""
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.choices)
    if dimension.is_whole:
        return IntDistribution(
            int(dimension.low), int(dimension.high), dimension.log, int(dimension.step or 1)
        )
    return FloatDistribution(dimension.low, dimension.high, dimension.log, dimension.step)


def suggest_point(trial: optuna.Trial, dimensions: Dimensions) -> dict[str, Any]:
    """Give a trial its point, or what it lacks of one."""
    point: dict[str, Any] = {}
    for name, dimension in dimensions.items():
        if not dimension.applies(point):
            continue
        match distribution_of(dimension):
            case CategoricalDistribution(choices=choices):
                point[name] = trial.suggest_categorical(name, choices)
            case IntDistribution(low=low, high=high, log=log, step=step):
                point[name] = trial.suggest_int(name, low, high, log=log, step=step)
            case FloatDistribution(low=low, high=high, log=log, step=step):
                point[name] = trial.suggest_float(name, low, high, log=log, step=step)
    return point


class DistinctPoints(BaseSampler):
    """Never suggests a point twice.

    What another sampler suggests is taken if no trial has it yet; else a random point that none has. The
    value of a point does not change when it is evaluated again, so a repetition would tell nothing.

    Args:
        dimensions: of the space.
        inner: the sampler that suggests, None for the points of the grid in their order.
        seed: of the random points.
    """

    def __init__(self, dimensions: Dimensions, inner: BaseSampler | None, seed: int):
        self._dimensions = dimensions
        self._inner = inner
        self._random = np.random.default_rng(seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole space: points are chosen as one."""
        return {name: distribution_of(dimension) for name, dimension in self._dimensions.items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point that no other trial has, and with what the trial itself may have of one already."""
        taken = [other.params for other in study.get_trials(deepcopy=False, states=TAKEN_STATES)]
        if size(self._dimensions) > MAX_LISTED:
            suggestion = self._suggestion(study, trial, search_space)
            return suggestion if suggestion not in taken else self._drawn(trial, taken)
        free = [point for point in all_points(self._dimensions, trial.params) if point not in taken]
        if not free:
            raise RuntimeError("every point of the search space has been tried")
        if self._inner is None:
            return free[0]
        suggestion = self._suggestion(study, trial, search_space)
        return suggestion if suggestion in free else free[self._random.integers(len(free))]

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Not reached: every parameter is in the relative space."""
        raise NotImplementedError(param_name)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Passed on."""
        if self._inner:
            self._inner.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Passed on."""
        if self._inner:
            self._inner.after_trial(study, trial, state, values)

    def _suggestion(
        self, study: optuna.Study, trial: FrozenTrial, space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The other sampler's point, of which the trial may have a part already."""
        inner = self._inner
        if inner is None:
            raise NotImplementedError("a grid is listed")
        relative_space = inner.infer_relative_search_space(study, trial)
        relative = inner.sample_relative(study, trial, relative_space) if relative_space else {}
        point: dict[str, Any] = {}
        for name, dimension in self._dimensions.items():
            if dimension.applies(point):
                if name in trial.params:
                    value = trial.params[name]
                elif name in relative:
                    value = relative[name]
                else:
                    value = inner.sample_independent(study, trial, name, space[name])
                point[name] = _counted(dimension, value)
        return point

    def _drawn(self, trial: FrozenTrial, taken: Sequence[dict[str, Any]]) -> dict[str, Any]:
        for _ in range(MAX_LISTED):
            point: dict[str, Any] = {}
            for name, dimension in self._dimensions.items():
                if dimension.applies(point):
                    point[name] = (
                        trial.params[name] if name in trial.params else self._random_value(dimension)
                    )
            if point not in taken:
                return point
        raise RuntimeError("every point of the search space has been tried")

    def _random_value(self, dimension: Choices | Range) -> Any:
        if isinstance(dimension, Range) and dimension.log:
            half = 0.5 if dimension.is_whole else 0.0
            low, high = math.log(dimension.low - half), math.log(dimension.high + half)
            drawn = min(max(math.exp(self._random.uniform(low, high)), dimension.low), dimension.high)
            return round(drawn) if dimension.is_whole else drawn
        if isinstance(dimension, Range) and dimension.values is None:
            return float(self._random.uniform(dimension.low, dimension.high))
        values = dimension.values or ()
        return values[int(self._random.integers(len(values)))]


def _counted(dimension: Choices | Range, value: Any) -> Any:
    """The number of a range's steps nearest to a value: samplers differ from it in the last bits."""
    if isinstance(dimension, Choices) or dimension.step is None or dimension.values is None:
        return value
    return dimension.values[round((value - dimension.low) / dimension.step)]


def has_point(dimensions: Dimensions, trial: FrozenTrial) -> bool:
    """Whether the trial has its whole point."""
    return is_whole(dimensions, trial.params)


def random_start(params: SearchParams) -> int:
    """The number of trials that the sampler draws at random before it learns, 0 if it never does."""
    _, default = RANDOM_START.get(params.sampler, ("", 0))
    return params.startup_trials or default


def build_sampler(params: SearchParams, seed: int) -> DistinctPoints:
    """The sampler named in ``params``, kept from repeating points."""
    options: dict[str, Any] = {"seed": seed}
    if params.startup_trials is not None:
        options[RANDOM_START[params.sampler][0]] = params.startup_trials
    inner = None if params.sampler == "grid" else SAMPLERS[params.sampler](**options)
    return DistinctPoints(params.dimensions, inner, seed)


def build_pruner(params: SearchParams) -> BasePruner:
    """The pruner named in ``params``, with Optuna's defaults."""
    return PRUNERS[params.pruner]()
