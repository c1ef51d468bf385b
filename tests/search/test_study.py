import optuna
import pytest
from optuna.trial import TrialState

from lora_tta.config import SearchParams
from lora_tta.search.study import (
    best_trial,
    finished_trials,
    open_study,
    retry_unfinished,
    run_next,
    trial_table,
)

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def search() -> SearchParams:
    return SearchParams(
        study_name="s",
        n_trials=6,
        num_clips=None,
        sampler="tpe",
        objective="psnr",
        direction="maximize",
        seed=0,
        space={"rank": [4, 8], "learning_rate": [1e-4, 5e-4], "num_steps": [5, 10, 20]},
    )


def objective(trial, settings) -> float:
    value = settings.rank + 1000 * settings.learning_rate - abs(settings.num_steps - 10) / 10
    trial.set_user_attr("means", {"psnr": value})
    return value


def interrupted(trial, settings):
    raise KeyboardInterrupt


def finish(study, search, count):
    for _ in range(count):
        run_next(study, search, objective)


def points(study):
    return [trial.params for trial in study.trials]


def test_the_study_survives_and_is_resumed(tmp_path, search):
    finish(open_study(tmp_path, search, {"model": "a"}), search, 3)
    reopened = open_study(tmp_path, search, {"model": "a"})
    assert len(reopened.trials) == 3


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_an_interruption_does_not_change_what_is_tried(tmp_path, search, sampler):
    search = search.model_copy(update={"sampler": sampler})
    whole = open_study(tmp_path / "whole", search, {})
    finish(whole, search, 12)
    finish(open_study(tmp_path / "parts", search, {}), search, 5)
    parts = open_study(tmp_path / "parts", search, {})
    finish(parts, search, 7)
    assert points(whole) == points(parts)


def test_the_grid_visits_every_point_once(tmp_path, search):
    study = open_study(tmp_path, search, {})
    finish(study, search.model_copy(update={"sampler": "grid"}), 12)
    assert len({tuple(point.items()) for point in points(study)}) == 12


def test_other_settings_or_another_space_begin_another_study(tmp_path, search):
    finish(open_study(tmp_path, search, {"model": "a"}), search, 1)
    assert not open_study(tmp_path, search, {"model": "b"}).trials
    smaller = search.model_copy(update={"space": search.space.model_copy(update={"rank": [4]})})
    assert not open_study(tmp_path, smaller, {"model": "a"}).trials
    more = search.model_copy(update={"n_trials": 100})
    assert len(open_study(tmp_path, more, {"model": "a"}).trials) == 1


def test_an_interrupted_trial_is_run_again_once(tmp_path, search):
    study = open_study(tmp_path, search, {})
    with pytest.raises(KeyboardInterrupt):
        run_next(study, search, interrupted)
    for _ in range(2):
        study = open_study(tmp_path, search, {})
        assert not retry_unfinished(study)
    finish(study, search, 1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert points(study)[1] == points(study)[0]


def test_a_trial_that_a_killed_process_left_running_is_run_again(tmp_path, search):
    lost = open_study(tmp_path, search, {}).ask()
    for name, choices in search.space.model_dump().items():
        lost.suggest_categorical(name, choices)
    study = open_study(tmp_path, search, {})
    assert [trial.number for trial in retry_unfinished(study)] == [lost.number]
    finish(study, search, 1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert points(study)[1] == lost.params


def test_later_trials_do_not_change_the_result_for_a_smaller_number(tmp_path, search):
    study = open_study(tmp_path, search, {})
    finish(study, search, 4)
    table = trial_table(finished_trials(study, 4))
    best = best_trial(finished_trials(study, 4), "maximize").number
    finish(study, search, 8)
    assert trial_table(finished_trials(study, 4)).equals(table)
    assert best_trial(finished_trials(study, 4), "maximize").number == best
    assert table.loc[best, "value"] == table["value"].max()


def test_minimising_takes_the_smallest(tmp_path, search):
    study = open_study(tmp_path, search, {})
    finish(study, search, 6)
    trials = finished_trials(study, 6)
    assert best_trial(trials, "minimize").value == min(trial.value for trial in trials)
