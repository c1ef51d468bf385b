"""Settings by their names: a point of the search space, and nested settings as one level."""

from collections.abc import Mapping
from typing import Any

Point = Mapping[str, int | float | str]
# How a clip is continued: adapted at a point, as a yardstick of this name, or without adaptation.
Arm = Point | str | None


def describe(point: Point) -> str:
    """A point in words.

    >>> describe({"rank": 8, "learning_rate": 1e-4})
    'rank 8, learning_rate 0.0001'
    """
    texts = {name: f"{value:g}" if isinstance(value, float) else value for name, value in point.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as one level.

    >>> flatten({"model": {"path": "a", "dtype": "b"}, "seed": 1})
    {'model.path': 'a', 'model.dtype': 'b', 'seed': 1}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": item for inner, item in flatten(value).items()}
        else:
            flat[name] = value
    return flat
