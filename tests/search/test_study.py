import optuna
import pytest
from optuna.trial import TrialState
from small_search import claim_point, fail, finish

from lora_tta.errors import UserError
from lora_tta.search.study import (
    JOURNAL,
    MEANS_ATTRIBUTE,
    best_trial,
    finished_trials,
    open_study,
    trial_table,
)


def test_the_study_survives_and_is_resumed(tmp_path, with_search):
    params = with_search()
    finish(open_study(tmp_path, params, {"model": "a"}), params.search, [1, 2, 3])
    assert len(open_study(tmp_path, params, {"model": "a"}).trials) == 3


def test_a_line_torn_by_a_crash_does_not_spoil_the_study(tmp_path, with_search):
    params = with_search()
    finish(open_study(tmp_path, params, {}), params.search, [1])
    with (params.cache.path / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code": 8, "worker')
    finish(open_study(tmp_path, params, {}), params.search, [2])
    study = open_study(tmp_path, params, {})
    assert [trial.value for trial in study.trials] == [1, 2]


@pytest.mark.parametrize("damage", [b"{", b"\xff\n", b"[]\n", b'{"op_code": 99}\n', b'{"op_code": 4}\n'])
def test_a_damaged_journal_is_one_line_that_says_what_to_do(tmp_path, with_search, damage):
    params = with_search()
    finish(open_study(tmp_path, params, {}), params.search, [1])
    journal = params.cache.path / JOURNAL
    journal.write_bytes(damage + journal.read_bytes())
    with pytest.raises(UserError, match=r"is damaged .* move it away") as caught:
        open_study(tmp_path, params, {})
    assert "\n" not in str(caught.value)
    journal.unlink()
    assert not open_study(tmp_path, params, {}).trials


def test_other_settings_or_another_space_begin_another_study(tmp_path, with_search):
    params = with_search()
    finish(open_study(tmp_path, params, {"model": "a"}), params.search, [1])
    assert not open_study(tmp_path, params, {"model": "b"}).trials
    space = params.search.space | {"rank": [4]}
    assert not open_study(tmp_path, with_search(space=space), {"model": "a"}).trials
    assert len(open_study(tmp_path, with_search(n_trials=5), {"model": "a"}).trials) == 1


def test_later_trials_do_not_change_the_result_for_a_smaller_number(tmp_path, with_search):
    params = with_search()
    study = open_study(tmp_path, params, {})
    finish(study, params.search, [3, 5, 4])
    table = trial_table(finished_trials(study, 3))
    finish(study, params.search, [9, 1])
    assert trial_table(finished_trials(study, 3)).equals(table)
    assert best_trial(study, 3).value == 5
    assert best_trial(study, 5).value == 9


@pytest.mark.parametrize(
    ("metric", "direction", "best"), [("psnr", "maximize", 5), ("motion_error", "minimize", 3)]
)
def test_the_direction_decides_and_the_earlier_of_equals_wins(tmp_path, with_search, metric, direction, best):
    params = with_search(objectives=[{"metric": metric, "direction": direction}])
    study = open_study(tmp_path, params, {})
    finish(study, params.search, [5, 3, 5, 3, 4])
    assert best_trial(study, 5).value == best
    assert best_trial(study, 5).number == {5: 0, 3: 1}[best]


def test_pruned_and_infeasible_trials_are_not_the_best_while_there_are_others(tmp_path, with_search):
    params = with_search()
    study = open_study(tmp_path, params, {})
    finish(study, params.search, [1])
    broken = claim_point(study, params.search)
    broken.set_constraint("adapt_seconds_per_clip", 2.0)
    study.tell(broken, 9)
    finish(study, params.search, [8], state=TrialState.PRUNED)
    assert best_trial(study, 3).value == 1


def test_a_failed_trial_is_never_the_best(tmp_path, with_search):
    params = with_search(objectives=[{"metric": "motion_error", "direction": "minimize"}])
    study = open_study(tmp_path, params, {})
    fail(study, params.search, "the training loss is nan at step 2")
    finish(study, params.search, [20])
    assert best_trial(study, 2).number == 1


def test_without_a_completed_trial_the_error_gives_the_first_reason(tmp_path, with_search):
    params = with_search()
    study = open_study(tmp_path, params, {})
    for reason in ("the training loss is nan at step 2", "RuntimeError: no space left"):
        fail(study, params.search, reason)
    with pytest.raises(UserError, match=r"every trial .* failed, .* the training loss is nan at step 2"):
        best_trial(study, 2)


def test_a_study_of_pruned_trials_alone_says_what_to_change(tmp_path, with_search):
    params = with_search()
    study = open_study(tmp_path, params, {})
    finish(study, params.search, [1, 2], state=TrialState.PRUNED)
    with pytest.raises(UserError, match=r"set search\.pruner to none"):
        best_trial(study, 2)


def test_the_table_names_failures_and_holds_costs_on_demand(tmp_path, with_search):
    params = with_search()
    study = open_study(tmp_path, params, {})
    fail(study, params.search, "the training loss is nan at step 2")
    trial = claim_point(study, params.search)
    trial.set_user_attr(MEANS_ATTRIBUTE, {"psnr": 20.0, "adapt_seconds_per_clip": 3.0})
    study.tell(trial, 20.0)
    table = trial_table(finished_trials(study, 2))
    assert list(table["state"]) == ["fail", "complete"]
    assert list(table["failure"].fillna("")) == ["the training loss is nan at step 2", ""]
    assert list(table["psnr"].fillna(0)) == [0, 20]
    assert "adapt_seconds_per_clip" not in table
    with_costs = trial_table(finished_trials(study, 2), costs=["adapt_seconds_per_clip"])
    assert with_costs["adapt_seconds_per_clip"][1] == 3


def test_an_unreachable_database_is_one_line(tmp_path, with_search):
    params = with_search(storage="sqlite:////nowhere/at/all.db")
    with pytest.raises(UserError, match=r"search\.storage"):
        open_study(tmp_path, params, {})


def test_a_database_serves_as_well_as_a_journal(tmp_path, with_search):
    params = with_search(storage=f"sqlite:///{tmp_path}/study.db")
    finish(open_study(tmp_path, params, {}), params.search, [1, 2])
    assert isinstance(open_study(tmp_path, params, {}), optuna.Study)
    assert len(open_study(tmp_path, params, {}).trials) == 2
    assert not (params.cache.path / JOURNAL).exists()
