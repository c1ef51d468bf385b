import optuna
import pytest

from lora_tta.search.sampling import PRUNERS, SAMPLERS, build_pruner, build_sampler


def points(search, count, sampler_of=None):
    """Points of ``count`` trials, each with a sampler of its own as the workers do."""
    study = optuna.create_study()
    for number in range(count):
        study.sampler = build_sampler(search, seed=number)
        trial = study.ask()
        for name, choices in search.space.model_dump().items():
            trial.suggest_categorical(name, choices)
        study.tell(trial, trial.params["rank"] + trial.params["num_steps"])
    return [tuple(trial.params.items()) for trial in study.trials]


@pytest.mark.parametrize("sampler", ["grid", *SAMPLERS])
def test_every_sampler_covers_the_space_without_repetition(with_search, sampler):
    assert len(set(points(with_search(sampler=sampler).search, 12))) == 12


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


@pytest.mark.parametrize("name", PRUNERS)
def test_pruners_go_by_name(with_search, name):
    assert isinstance(build_pruner(with_search(pruner=name).search), PRUNERS[name])
