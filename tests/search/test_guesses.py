"""Warm starts: points of an earlier study."""

import json

import pytest
from small_search import claim_point, finish

from lora_tta.errors import UserError
from lora_tta.search.guesses import warm_start
from lora_tta.search.study import best_trial, finished_trials, open_study, trial_table
from lora_tta.search.study_export import export_study


@pytest.fixture
def earlier(tmp_path, with_search):
    """The export of a study of three trials, the second of which is the best, and their points."""
    params = with_search(study_name="earlier")
    study = open_study(tmp_path, params, {})
    finish(study, params.search, [20.0, 22.0, 21.0])
    return export_study(study, study.trials, tmp_path / "exports"), [trial.params for trial in study.trials]


def test_the_best_points_of_an_export_are_tried_first_and_say_where_they_come_from(
    tmp_path, with_search, earlier
):
    path, points = earlier
    params = with_search(warm_start={"path": path, "points": 2})
    guesses, left_out = warm_start(params.search)
    assert [guess.point for guess in guesses] == [points[1], points[2]]
    assert not left_out
    study = open_study(tmp_path, params, {}, guesses)
    finish(study, params.search, [1.0, 2.0, 3.0])
    assert [trial.params for trial in study.trials[:2]] == [points[1], points[2]]
    assert [trial.user_attrs.get("origin") for trial in study.trials] == [
        f"{path.stem}/1",
        f"{path.stem}/2",
        None,
    ]
    assert list(trial_table(study.trials)["origin"][:2]) == [f"{path.stem}/1", f"{path.stem}/2"]
    assert study.trials[2].params not in [points[1], points[2]]


def test_opened_again_or_restored_in_a_clone_the_study_tries_no_guess_twice(tmp_path, with_search, earlier):
    params = with_search(warm_start={"path": earlier[0], "points": 2})
    guesses, _ = warm_start(params.search)
    study = open_study(tmp_path, params, {}, guesses)
    finish(study, params.search, [1.0, 2.0])
    assert len(open_study(tmp_path, params, {}, guesses).trials) == 2
    export_study(study, finished_trials(study, 2), tmp_path)
    elsewhere = with_search(
        warm_start={"path": earlier[0], "points": 2}, storage=f"sqlite:///{tmp_path}/clone.db"
    )
    clone = open_study(tmp_path, elsewhere, {}, guesses)
    assert [trial.user_attrs["origin"] for trial in clone.trials] == [guess.origin for guess in guesses]
    assert best_trial(clone, 2).value == 2


def test_with_other_guesses_it_is_another_study(tmp_path, with_search, earlier):
    params = with_search(warm_start={"path": earlier[0], "points": 2})
    guesses, _ = warm_start(params.search)
    assert open_study(tmp_path, params, {}, guesses).study_name != open_study(tmp_path, params, {}).study_name


def test_the_best_point_of_a_search_can_be_a_guess(tmp_path, with_search, earlier):
    path = tmp_path / "best.json"
    path.write_text(json.dumps({"study": "a", "trial": 7, "point": earlier[1][0]}))
    (guess,), _ = warm_start(with_search(warm_start={"path": path, "points": 3}).search)
    assert (guess.point, guess.origin) == (earlier[1][0], "a/7")


def test_points_outside_of_the_space_are_left_out_with_a_line_each(with_search, earlier):
    path, points = earlier
    space = {
        "rank": [4, 8],
        "learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
        "num_steps": [5, 10, 20],
    }
    space["num_steps"].remove(points[1]["num_steps"])
    guesses, lines = warm_start(with_search(space=space, warm_start={"path": path, "points": 3}).search)
    assert len(guesses) + len(lines) == 3
    assert f"search.warm_start leaves out {path.stem}/1 (" in lines[0]
    assert lines[0].endswith(f"num_steps {points[1]['num_steps']} is not in the space")


def test_if_no_point_fits_the_search_is_refused_with_the_reasons(with_search, earlier):
    space = {"rank": [5], "num_steps": [1]}
    with pytest.raises(UserError, match=r"no point of .* can be used: .* is not in the space"):
        warm_start(with_search(space=space, warm_start={"path": earlier[0], "points": 1}).search)


@pytest.mark.parametrize("content", [None, "{", "{}", "[]", '{"directions": ["maximize"], "trials": [{}]}'])
def test_a_file_that_is_missing_or_something_else_is_one_line(tmp_path, with_search, content):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"search\.warm_start\.path: .*other\.json") as caught:
        warm_start(with_search(warm_start={"path": path, "points": 1}).search)
    assert "\n" not in str(caught.value)


def test_guesses_count_as_taken_points(tmp_path, with_search, earlier):
    params = with_search(sampler="grid", warm_start={"path": earlier[0], "points": 3})
    guesses, _ = warm_start(params.search)
    study = open_study(tmp_path, params, {}, guesses)
    points = [tuple(sorted(claim_point(study, params.search).params.items())) for _ in range(12)]
    assert len(set(points)) == 12
