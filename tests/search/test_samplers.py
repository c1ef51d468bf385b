import itertools

import optuna
import pytest
from optuna.trial import TrialState
from small_search import claim_point

from lora_tta.search.samplers import PRUNERS, RANDOM_START, SAMPLERS, build_pruner, build_sampler


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

    assert {name: learns_after(name) for name in RANDOM_START} == RANDOM_START
