"""The search space: its dimensions, and the points that they span.

A dimension is a list of choices, or a range of numbers. It may depend on others: a point has a value of it
only where these have certain values.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
    model_validator,
)

from lora_tta.records.point import Point, describe

Value = StrictBool | StrictInt | StrictFloat | StrictStr
Number = StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)]
Values = Annotated[list[Value], Field(min_length=1)]


class Conditional(BaseModel):
    """A dimension that a point may lack.

    ``when`` maps the names of other dimensions to the values, or the value, with which a point has this one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    when: dict[str, Value | Values] = {}

    def applies(self, point: Point) -> bool:
        """Whether the point has, or is to get, a value of this dimension."""
        return all(point.get(name) in allowed for name, allowed in self.conditions().items())

    def conditions(self) -> dict[str, list[Any]]:
        """``when`` with lists alone."""
        return {
            name: list(values) if isinstance(values, list) else [values] for name, values in self.when.items()
        }


class Choices(Conditional):
    """One of several values."""

    choices: Values

    @property
    def values(self) -> Sequence[Any]:
        """All of them."""
        return self.choices

    def holds(self, value: object) -> bool:
        """Whether the value is one of the choices."""
        return value in self.choices


class Range(Conditional):
    """Numbers from ``low`` to ``high``, both included: whole ones if all that is written here is whole.

    With ``log`` small numbers are as likely as large ones, and with ``step`` only ``low`` and every
    ``step``-th number after it counts.
    """

    low: Number
    high: Number
    log: StrictBool = False
    step: Number | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low, {self.low:g}, must be below high, {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g}, and a logarithmic range begins above 0")
        if self.step is not None:
            if self.log:
                raise ValueError("a logarithmic range has no step")
            if self.step <= 0:
                raise ValueError(f"step is {self.step:g}, and must be above 0")
            steps = (self.high - self.low) / self.step
            if not math.isclose(steps, round(steps), abs_tol=1e-9):
                raise ValueError(
                    f"high, {self.high:g}, is not a whole number of steps of {self.step:g} above low"
                )
        return self

    @property
    def is_whole(self) -> bool:
        """Whether the numbers are whole."""
        return all(
            isinstance(number, int) for number in (self.low, self.high, self.step) if number is not None
        )

    @property
    def values(self) -> Sequence[Any] | None:
        """All numbers, or None where they are without number."""
        if self.is_whole:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        if self.step is None:
            return None
        count = round((self.high - self.low) / self.step) + 1
        return [min(self.low + number * self.step, self.high) for number in range(count)]

    def holds(self, value: object) -> bool:
        """Whether the value is a number of the range; whole numbers are numbers of any range."""
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else int | float):
            return False
        if self.values is None:
            return self.low <= value <= self.high
        return any(math.isclose(value, number) for number in self.values)


def _tag(dimension: object) -> str:
    if isinstance(dimension, Conditional):
        return next(tag for tag, kind in TAGGED.items() if type(dimension) is kind)
    if isinstance(dimension, Mapping):
        return "{choices}" if "choices" in dimension else "{range}"
    return "[choices]"


# As `params.yaml` has it; a list is short for choices that every point has.
Dimension = Annotated[
    Annotated[Values, Tag("[choices]")]
    | Annotated[Choices, Tag("{choices}")]
    | Annotated[Range, Tag("{range}")],
    Discriminator(_tag),
]
# The names by which errors tell these kinds apart.
TAGGED: dict[str, type[Conditional]] = {"{choices}": Choices, "{range}": Range}
TAGS = ("[choices]", *TAGGED)
Dimensions = Mapping[str, Choices | Range]


def in_order(dimensions: Dimensions) -> Dimensions:
    """Those that every point has come first, so that it is known of each whether a point has it."""
    return dict(sorted(dimensions.items(), key=lambda item: bool(item[1].when)))


def is_whole(dimensions: Dimensions, point: Point) -> bool:
    """Whether the point has a value of each dimension that it should have."""
    return all(name in point for name, dimension in dimensions.items() if dimension.applies(point))


def misfit(dimensions: Dimensions, point: Point) -> str | None:
    """Why a point is none of the space, in words; None if it is one."""
    for name, dimension in dimensions.items():
        if dimension.applies(point):
            if name not in point:
                return f"it has no {name}"
            if not dimension.holds(point[name]):
                return f"{describe({name: point[name]})} is not in the space"
    superfluous = [name for name in point if name not in dimensions or not dimensions[name].applies(point)]
    return f"{superfluous[0]} is not searched" if superfluous else None


def size(dimensions: Dimensions) -> float:
    """The number of points, infinite with a range of fractions without step."""
    switches = sorted({name for dimension in dimensions.values() for name in dimension.when})
    total = 0.0
    for values in itertools.product(*(dimensions[name].values or () for name in switches)):
        chosen = dict(zip(switches, values, strict=True))
        others = [each for name, each in dimensions.items() if name not in chosen and each.applies(chosen)]
        total += math.prod(math.inf if each.values is None else len(each.values) for each in others)
    return total


def all_points(dimensions: Dimensions, start: Point | None = None) -> Iterator[dict[str, Any]]:
    """The points of a finite space that ``start`` is a part of; the last dimension changes first."""
    yield from _completed(list(dimensions.items()), dict(start or {}), {})


def _completed(
    left: list[tuple[str, Choices | Range]], start: Point, point: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    if not left:
        yield point
        return
    (name, dimension), *rest = left
    if not dimension.applies(point):
        yield from _completed(rest, start, point)
        return
    for value in dimension.values or ():
        if name not in start or start[name] == value:
            yield from _completed(rest, start, point | {name: value})
