"""What a search varies: its methods, its numbers of steps, and what is left."""

from collections.abc import Sequence
from typing import Any

from lora_tta.config import Params
from lora_tta.records.space import Choices

# Of a trajectory, where the search has a range of numbers of steps.
MAX_SNAPSHOTS = 10


def searched_methods(params: Params) -> list[str]:
    """The names of the methods that a search may use, each once."""
    methods = params.search.dimensions.get("method")
    if methods is None or methods.values is None:
        return [params.adaptation.method.name]
    return sorted(methods.values)


def searched_steps(params: Params) -> list[int]:
    """The numbers of steps that a search may ask for, in the order of the space; empty if it varies none."""
    dimension = params.search.dimensions.get("num_steps")
    return [] if dimension is None or dimension.values is None else [int(steps) for steps in dimension.values]


def kept_steps(params: Params) -> Sequence[int]:
    """The numbers of steps at which every trajectory leaves a snapshot.

    They are all that the search may ask for, or some of a range, to which a trial adds its own.
    """
    steps = searched_steps(params)
    if len(steps) <= MAX_SNAPSHOTS or isinstance(params.search.dimensions["num_steps"], Choices):
        return steps
    return [steps[len(steps) * (number + 1) // MAX_SNAPSHOTS - 1] for number in range(MAX_SNAPSHOTS)]


def fixed_settings(params: Params) -> dict[str, Any]:
    """The settings of the adaptation that the search does not vary."""
    searched = params.search.space
    settings = params.adaptation.model_dump(exclude={"method"})
    settings |= {f"method.{name}": value for name, value in params.adaptation.method}
    return {name: value for name, value in settings.items() if name.removeprefix("method.") not in searched}
