"""What the report says of a search before its numbers."""

import pandas as pd
import pytest

from lora_tta.records.space import Choices, Range
from lora_tta.report.caveats import search_caveats

SPACE = {
    "rank": Choices(choices=[4, 8, 16]),
    "learning_rate": Choices(choices=[1e-4, 1e-3]),
    "num_steps": Choices(choices=[10]),
    "targets": Choices(choices=["attention", "mlp"]),
    "weight_decay": Range(low=1e-4, high=1.0, log=True),
}
TRIALS = pd.DataFrame({"trial": [0, 1], "state": ["complete", "fail"], "failure": [None, "the loss is nan"]})


def best(point: dict, trials: int = 30, failed: int = 0, random_start: int = 10) -> dict:
    return {"point": point, "trials": trials, "failed": failed, "random_start": random_start}


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"rank": 8}, None),
        ({"rank": 16}, "rank 16 is the largest of 3"),
        ({"rank": 4}, "rank 4 is the least of 3"),
        ({"rank": 8, "num_steps": 10}, None),  # nothing to choose from
        ({"rank": 8, "targets": "mlp"}, None),  # no number
        (
            {"rank": 16, "learning_rate": 1e-4},
            "rank 16 is the largest of 3, learning rate 1e-4 is the least of 2",
        ),
        ({"weight_decay": 0.02}, None),
        ({"weight_decay": 0.9}, "weight decay 0.9 is at the end weight decay 1 of its range"),
    ],
)
def test_a_best_point_on_the_edge_of_the_space(point, said):
    caveats = search_caveats(best(point), TRIALS, SPACE, "tpe")
    assert len(caveats) == (said is not None)
    if said:
        assert said in caveats[0].replace("_", " ").replace("0.0001", "1e-4")


@pytest.mark.parametrize(
    ("trials", "random_start", "warned"), [(10, 10, True), (11, 10, False), (6, 0, False)]
)
def test_a_sampler_that_never_left_its_random_start(trials, random_start, warned):
    caveats = search_caveats(best({"rank": 8}, trials, random_start=random_start), TRIALS, SPACE, "tpe")
    assert [f"and the study has {trials}" in caveat for caveat in caveats] == [True] * warned


def test_failed_trials():
    (caveat,) = search_caveats(best({"rank": 8}, failed=1), TRIALS, SPACE, "tpe")
    assert caveat == "1 of 30 trials failed and could not be chosen, first trial 1: the loss is nan."


def test_a_screening_is_told():
    screening = {"clips": 4, "num_inference_steps": 2, "confirmed": 3, "confirmed_on": 20}
    (caveat,) = search_caveats(best({"rank": 8}) | {"screening": screening}, TRIALS, SPACE, "tpe")
    assert "screened on 4 clips with 2 sampling steps" in caveat
    assert "The best 3 were tried again on 20 clips" in caveat
