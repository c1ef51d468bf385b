import itertools

import optuna
import pytest
from optuna.trial import TrialState
from small_search import claim_point

from lora_tta.config import LEARNING_SAMPLERS
from lora_tta.records.space import misfit
from lora_tta.search.samplers import (
    PRUNERS,
    RANDOM_START,
    SAMPLERS,
    build_pruner,
    build_sampler,
    random_start,
    suggest_point,
)


def points(search, count, failing=False):
    """Points of ``count`` trials, each with a sampler of its own as the workers do; all fail on demand."""
    study = optuna.create_study()
    for _ in range(count):
        trial = claim_point(study, search)
        if failing:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, trial.params["rank"] + trial.params["num_steps"])
    return [tuple(trial.params.items()) for trial in study.trials]


@pytest.mark.parametrize("sampler", ["grid", *SAMPLERS])
def test_every_sampler_covers_the_space_without_repetition(with_search, sampler):
    assert len(set(points(with_search(sampler=sampler).search, 12))) == 12


@pytest.mark.parametrize("sampler", ["grid", *SAMPLERS])
def test_a_failed_point_is_never_suggested_again(with_search, sampler):
    assert len(set(points(with_search(sampler=sampler).search, 12, failing=True))) == 12


@pytest.mark.parametrize("sampler", ["grid", *SAMPLERS])
def test_the_same_seeds_give_the_same_points(with_search, sampler):
    search = with_search(sampler=sampler).search
    assert points(search, 6) == points(search, 6)


def test_the_grid_is_walked_in_the_order_of_the_space(with_search):
    first, second, *_ = points(with_search(sampler="grid").search, 2)
    assert first == (("rank", 4), ("learning_rate", 1e-4), ("num_steps", 5))
    assert second == (("rank", 4), ("learning_rate", 1e-4), ("num_steps", 10))


def test_a_space_that_is_used_up_is_an_error(with_search):
    with pytest.raises(RuntimeError, match="every point"):
        points(with_search(sampler="random").search, 13)


@pytest.mark.parametrize("seed", range(4))
def test_half_a_point_is_completed_to_one_that_no_trial_has(with_search, seed):
    search = with_search(sampler="random").search
    space = search.space
    study = optuna.create_study(sampler=build_sampler(search, seed=0))
    half = study.ask()
    rank = half.suggest_categorical("rank", space["rank"])
    *taken, free = itertools.product(space["learning_rate"], space["num_steps"])
    for learning_rate, num_steps in taken:
        point = {"rank": rank, "learning_rate": learning_rate, "num_steps": num_steps}
        study.enqueue_trial(point)
        claim_point(study, search)
    study.sampler = build_sampler(search, seed)
    completed = optuna.Trial(study, half._trial_id)
    point = [completed.suggest_categorical(name, choices) for name, choices in space.items()]
    assert point == [rank, *free]


@pytest.mark.parametrize("name", PRUNERS)
def test_pruners_go_by_name(with_search, name):
    assert isinstance(build_pruner(with_search(pruner=name).search), PRUNERS[name])


def test_the_random_start_is_that_of_the_installed_optuna(with_search):
    def learns_after(name: str) -> int:
        inner = build_sampler(with_search(sampler=name).search, seed=0)._inner
        return inner._population_size if name == "nsgaii" else inner._n_startup_trials

    assert {name: learns_after(name) for name in RANDOM_START} == {
        name: default for name, (_, default) in RANDOM_START.items()
    }


def test_the_settings_know_which_samplers_learn():
    assert set(LEARNING_SAMPLERS) == RANDOM_START.keys()


@pytest.mark.parametrize("name", RANDOM_START)
def test_the_number_of_random_trials_can_be_chosen(with_search, name):
    params = with_search(sampler=name, startup_trials=3).search
    inner = build_sampler(params, seed=0)._inner
    assert (inner._population_size if name == "nsgaii" else inner._n_startup_trials) == 3
    assert random_start(params) == 3


CONDITIONAL = {
    "rank": {"low": 2, "high": 64, "log": True},
    "method": ["lora", "norms"],
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "weight_decay": {"low": 0.0, "high": 0.1, "step": 0.01},
    "warmup_steps": {"choices": [0, 5], "when": {"method": "norms"}},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_keeps_to_ranges_and_conditions(with_search, sampler):
    search = with_search(sampler=sampler, space=CONDITIONAL, startup_trials=None).search
    if sampler in RANDOM_START:
        search = with_search(sampler=sampler, space=CONDITIONAL, startup_trials=4).search
    study = optuna.create_study()
    for _ in range(10):
        trial = claim_point(study, search)
        study.tell(trial, abs(trial.params["learning_rate"] - 1e-3))
    found = [trial.params for trial in study.trials]
    assert [misfit(search.dimensions, point) for point in found] == [None] * 10
    assert {point["method"] for point in found} == {"lora", "norms"}
    assert len({tuple(point.items()) for point in found}) == 10


def test_a_space_of_ranges_is_covered_to_its_last_point(with_search):
    space = {"rank": {"low": 2, "high": 5}, "weight_decay": {"low": 0.0, "high": 0.3, "step": 0.1}}
    for sampler in ("random", "tpe"):
        params = with_search(sampler=sampler, space=space, n_trials=100)
        assert params.search.num_trials == 16
        study = optuna.create_study()
        for _ in range(16):
            study.tell(claim_point(study, params.search), 0.0)
        assert len({tuple(trial.params.items()) for trial in study.trials}) == 16


def test_half_a_point_of_a_range_is_completed(with_search):
    search = with_search(sampler="random", space=CONDITIONAL).search
    study = optuna.create_study(sampler=build_sampler(search, seed=0))
    half = study.ask()
    half.suggest_categorical("method", ["lora", "norms"])
    study.sampler = build_sampler(search, seed=1)
    completed = optuna.Trial(study, half._trial_id)
    point = suggest_point(completed, search.dimensions)
    assert point["method"] == half.params["method"]
    assert misfit(search.dimensions, point) is None
