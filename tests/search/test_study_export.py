"""The export of a study that DVC tracks, and the study that a clone of the repository continues from it."""

import json
import shutil

import pytest
from optuna.trial import TrialState
from small_search import claim_point, fail, finish

from lora_tta.errors import UserError
from lora_tta.search.study import JOURNAL, MEANS_ATTRIBUTE, finished_trials, open_study, trial_table
from lora_tta.search.study_export import export_study


def forget_studies(params):
    """As on another machine, which has the export alone."""
    shutil.rmtree((params.cache.path / JOURNAL).parent)


def content(study):
    """Everything about the trials that a continued study builds on."""
    return [
        (
            trial.number,
            trial.state,
            list(trial.params.items()),
            trial.distributions,
            trial.values,
            trial.constraints,
            trial.intermediate_values,
            trial.user_attrs,
        )
        for trial in study.trials
    ]


def study_with_trials_of_every_kind(folder, params):
    study = open_study(folder, params, {})
    kept, broken = (claim_point(study, params.search) for _ in range(2))
    for trial, value, excess in ((kept, 20.123456789012345, -0.5), (broken, 21.0, 0.25)):
        trial.set_user_attr(MEANS_ATTRIBUTE, {"psnr": value})
        trial.set_constraint("lpips_untrained", excess)
        study.tell(trial, value)
    pruned = claim_point(study, params.search)
    pruned.report(12.5, 0)
    pruned.report(11.5, 1)
    study.tell(pruned, state=TrialState.PRUNED)
    fail(study, params.search, "the training loss is nan at step 2")
    return study


def test_a_study_is_restored_from_its_export(tmp_path, with_search):
    params = with_search()
    study = study_with_trials_of_every_kind(tmp_path, params)
    before = content(study)
    export_study(study, finished_trials(study, 12), tmp_path)
    forget_studies(params)
    assert content(open_study(tmp_path, params, {})) == before


def test_a_restored_study_goes_on_with_the_next_number_and_repeats_no_point(tmp_path, with_search):
    params = with_search()
    study = study_with_trials_of_every_kind(tmp_path, params)
    export_study(study, finished_trials(study, 12), tmp_path)
    forget_studies(params)
    restored = open_study(tmp_path, params, {})
    finish(restored, params.search, [22.0])
    assert [trial.number for trial in restored.trials] == [0, 1, 2, 3, 4]
    assert len({tuple(trial.params.items()) for trial in restored.trials}) == 5
    # Opened again, it is not restored over what it has.
    assert len(open_study(tmp_path, params, {}).trials) == 5


def test_the_same_trials_give_the_same_bytes(tmp_path, with_search):
    params = with_search()
    study = study_with_trials_of_every_kind(tmp_path, params)
    first = export_study(study, finished_trials(study, 12), tmp_path / "first")
    forget_studies(params)
    again = study_with_trials_of_every_kind(tmp_path, params)
    second = export_study(again, finished_trials(again, 12), tmp_path / "second")
    assert first.name == second.name == f"{study.study_name}.json"
    assert first.read_bytes() == second.read_bytes()


def test_an_export_holds_no_costs_times_or_workers(tmp_path, with_search):
    params = with_search()
    study = open_study(tmp_path, params, {})
    trial = claim_point(study, params.search)
    trial.set_user_attr(
        MEANS_ATTRIBUTE, {"psnr": 20.0, "adapt_seconds_per_clip": 3.0, "peak_memory_mib": 100.0}
    )
    trial.set_user_attr("worker", "node-7")
    study.tell(trial, 20.0)
    path = export_study(study, finished_trials(study, 1), tmp_path)
    (exported,) = json.loads(path.read_text())["trials"]
    assert exported["attributes"] == {"means": {"psnr": 20.0}}
    assert not any(word in path.read_text() for word in ("seconds", "memory", "datetime", "node-7"))


def test_a_fault_that_passed_leaves_no_trace_in_the_export(tmp_path, with_search):
    params = with_search()
    study = open_study(tmp_path, params, {})
    trial = claim_point(study, params.search)
    trial.set_user_attr("failure", "OutOfMemoryError: another program took it")
    trial.set_user_attr("tries", 1)
    study.tell(trial, 20.0)
    path = export_study(study, finished_trials(study, 1), tmp_path)
    assert "OutOfMemoryError" not in path.read_text()


def test_the_export_of_a_restored_study_is_the_export_that_it_came_from(tmp_path, with_search):
    params = with_search()
    study = study_with_trials_of_every_kind(tmp_path, params)
    path = export_study(study, finished_trials(study, 12), tmp_path)
    before = path.read_bytes()
    forget_studies(params)
    restored = open_study(tmp_path, params, {})
    assert export_study(restored, finished_trials(restored, 12), tmp_path).read_bytes() == before
    assert trial_table(finished_trials(restored, 12)).equals(trial_table(finished_trials(study, 12)))


def test_points_of_ranges_that_lack_a_dimension_come_back_as_they_were(tmp_path, with_search):
    space = {
        "method": ["lora", "norms"],
        "rank": [4, 8],
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    }
    params = with_search(space=space)
    study = open_study(tmp_path, params, {})
    finish(study, params.search, [20.0, 21.0, 22.0, 23.0, 24.0, 25.0])
    points = [trial.params for trial in study.trials]
    assert {len(point) for point in points} == {2, 3}
    export_study(study, finished_trials(study, 12), tmp_path)
    table = trial_table(finished_trials(study, 12))
    forget_studies(params)
    restored = open_study(tmp_path, params, {})
    assert [trial.params for trial in restored.trials] == points
    assert [trial.distributions for trial in restored.trials] == [
        trial.distributions for trial in study.trials
    ]
    assert trial_table(finished_trials(restored, 12)).equals(table)
    assert list(table["rank"].dropna()) == [point["rank"] for point in points if "rank" in point]
    assert table["rank"].dtype == "Int64"


def test_another_study_is_not_restored(tmp_path, with_search):
    params = with_search()
    study = study_with_trials_of_every_kind(tmp_path, params)
    export_study(study, finished_trials(study, 12), tmp_path)
    forget_studies(params)
    assert not open_study(tmp_path, params, {"model": "another"}).trials


@pytest.mark.parametrize(
    "damage", ["{", "{}", "[]", '{"trials": [{"state": "COMPLETE"}]}', '{"trials": [1]}']
)
def test_a_damaged_export_is_one_line_that_names_it(tmp_path, with_search, damage):
    params = with_search()
    study = study_with_trials_of_every_kind(tmp_path, params)
    path = export_study(study, finished_trials(study, 12), tmp_path)
    forget_studies(params)
    path.write_text(damage)
    with pytest.raises(UserError, match=f"{path.name} is damaged") as caught:
        open_study(tmp_path, params, {})
    assert "\n" not in str(caught.value)
