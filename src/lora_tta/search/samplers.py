"""Samplers and pruners by the names that ``params.yaml`` knows."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
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

SAMPLERS = {
    "random": RandomSampler,
    "tpe": TPESampler,
    "gp": GPSampler,
    "qmc": QMCSampler,
    "nsgaii": NSGAIISampler,
}
# Trials that a sampler draws at random, by Optuna's defaults, before it learns from earlier ones.
RANDOM_START = {"tpe": 10, "gp": 10, "nsgaii": 50}
PRUNERS: dict[str, type[BasePruner]] = {
    "none": NopPruner,
    "wilcoxon": WilcoxonPruner,
    "median": MedianPruner,
    "successive_halving": SuccessiveHalvingPruner,
    "hyperband": HyperbandPruner,
}
TAKEN_STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


class DistinctPoints(BaseSampler):
    """Never suggests a point of a finite space twice.

    What another sampler suggests is taken if no trial has it yet; else a random point that none has. The
    value of a point does not change when it is evaluated again, so a repetition would tell nothing.

    Args:
        space: choices by parameter name.
        inner: the sampler that suggests, None for the points of the grid in their order.
        seed: of the random points.
    """

    def __init__(self, space: Mapping[str, Sequence[Any]], inner: BaseSampler | None, seed: int):
        self._space = space
        self._inner = inner
        self._random = np.random.default_rng(seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole space: points are chosen as one."""
        return {name: CategoricalDistribution(choices) for name, choices in self._space.items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point that no other trial has, and with what the trial itself may have of one already."""
        taken = [other.params for other in study.get_trials(deepcopy=False, states=TAKEN_STATES)]
        free = [
            point
            for values in itertools.product(*self._space.values())
            if (point := dict(zip(self._space, values, strict=True))) not in taken
            and trial.params.items() <= point.items()
        ]
        if not free:
            raise RuntimeError("every point of the search space has been tried")
        if self._inner is None:
            return free[0]
        suggestion = self._suggestion(self._inner, study, trial, search_space)
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

    @staticmethod
    def _suggestion(
        inner: BaseSampler,
        study: optuna.Study,
        trial: FrozenTrial,
        space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        relative_space = inner.infer_relative_search_space(study, trial)
        relative = inner.sample_relative(study, trial, relative_space) if relative_space else {}
        return {
            name: relative[name]
            if name in relative
            else inner.sample_independent(study, trial, name, distribution)
            for name, distribution in space.items()
        }


def build_sampler(params: SearchParams, seed: int) -> DistinctPoints:
    """The sampler named in ``params``, kept from repeating points."""
    inner = None if params.sampler == "grid" else SAMPLERS[params.sampler](seed=seed)
    return DistinctPoints(params.space, inner, seed)


def build_pruner(params: SearchParams) -> BasePruner:
    """The pruner named in ``params``, with Optuna's defaults."""
    return PRUNERS[params.pruner]()
