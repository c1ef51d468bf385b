"""What a search varies, as the experiments see it."""

import pytest

from lora_tta.config import Params
from lora_tta.experiment.searched import kept_steps, searched_methods, searched_steps


@pytest.fixture
def searching(params):
    def change(**space) -> Params:
        return Params.model_validate(
            params.model_dump() | {"search": params.search.model_dump() | {"space": space}}
        )

    return change


def test_every_number_of_steps_in_a_list_is_kept(searching):
    params = searching(num_steps=list(range(1, 16)))
    assert list(kept_steps(params)) == searched_steps(params) == list(range(1, 16))


def test_of_a_long_range_some_steps_are_kept_and_all_can_be_gone_on_from(searching):
    params = searching(num_steps={"low": 1, "high": 100})
    assert list(kept_steps(params)) == list(range(10, 101, 10))
    assert searched_steps(params) == list(range(1, 101))


def test_a_range_of_steps_costs_one_trajectory(ready):
    ready.change("search", space={"num_steps": {"low": 1, "high": 3}})
    runner = ready.runner()
    runner.run(ready.clips[0], {"num_steps": 3})
    assert len(list(ready.params.cache.path.glob("adapter/*"))) == 3


def test_the_methods_of_a_search_are_named(searching):
    assert searched_methods(searching(rank=[2])) == ["lora"]
    assert searched_methods(searching(method=["norms", "lora"])) == ["lora", "norms"]
