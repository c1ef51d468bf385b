import math

import pytest
from pydantic import TypeAdapter, ValidationError

from lora_tta.records.space import (
    Choices,
    Dimension,
    Range,
    all_points,
    in_order,
    is_whole,
    misfit,
    size,
)

SPACE = in_order(
    {
        "rank": Choices(choices=[4, 8], when={"method": "lora"}),
        "method": Choices(choices=["lora", "offset", "norms"]),
        "num_steps": Range(low=10, high=30, step=10),
    }
)


def test_the_points_of_a_space_have_the_dimensions_that_apply_to_them():
    points = list(all_points(SPACE))
    assert len(points) == size(SPACE) == (2 + 1 + 1) * 3
    assert points[0] == {"method": "lora", "num_steps": 10, "rank": 4}
    assert {"method": "norms", "num_steps": 30} in points
    assert all(("rank" in point) == (point["method"] == "lora") for point in points)
    assert all(misfit(SPACE, point) is None and is_whole(SPACE, point) for point in points)


def test_only_points_that_go_on_from_a_part_are_listed():
    assert next(all_points(SPACE, {"method": "lora", "rank": 8})) == {
        "method": "lora",
        "num_steps": 10,
        "rank": 8,
    }
    assert len(list(all_points(SPACE, {"rank": 8}))) == 3 + 6


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"low": 2, "high": 5}, [2, 3, 4, 5]),
        ({"low": 1, "high": 64, "log": True}, list(range(1, 65))),
        ({"low": 0.0, "high": 1.0, "step": 0.25}, [0, 0.25, 0.5, 0.75, 1]),
        ({"low": 1e-4, "high": 1e-2, "log": True}, None),
        ({"low": 1, "high": 2.0}, None),
    ],
)
def test_a_range_is_of_whole_numbers_if_all_of_it_is_whole(values, expected):
    found = Range(**values).values
    assert (None if found is None else list(found)) == expected


def test_a_range_of_fractions_makes_a_space_without_end():
    assert size({"rate": Range(low=0.1, high=1.0), "rank": Choices(choices=[4])}) == math.inf


@pytest.mark.parametrize(
    ("value", "inside"), [(10, True), (15, False), (40, False), (10.0, False), (True, False), ("10", False)]
)
def test_a_range_holds_its_own_numbers_alone(value, inside):
    assert SPACE["num_steps"].holds(value) is inside


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ({"method": "norms"}, "it has no num_steps"),
        ({"method": "lora", "num_steps": 10, "rank": 16}, "rank 16 is not in the space"),
        ({"method": "norms", "num_steps": 10, "rank": 4}, "rank is not searched"),
        ({"method": "norms", "num_steps": 10, "groups": 4}, "groups is not searched"),
    ],
)
def test_a_point_of_another_space_is_told_from_one_of_this(point, reason):
    assert misfit(SPACE, point) == reason


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low": 2, "high": 2}, "must be below high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "begins above 0"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "has no step"),
        ({"low": 1, "high": 9, "step": 0}, "must be above 0"),
        ({"low": 1, "high": 10, "step": 2}, "whole number of steps"),
        ({"low": math.nan, "high": 1.0}, "finite"),
    ],
)
def test_a_range_that_is_none_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Dimension).validate_python(values)
