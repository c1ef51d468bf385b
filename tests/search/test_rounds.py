"""A search that screens points cheaply and confirms the best of them, with a real model."""

import pytest

from lora_tta.search.findings import concluded, summary_of, table_of
from lora_tta.search.rounds import first_round, run_worker, second_round


@pytest.fixture
def screened(search_in):
    """A finished search of two rounds on two clips."""
    search = search_in(
        "screened",
        n_trials=3,
        space={"rank": [2], "learning_rate": [1e-3, 1e-2], "num_steps": [1, 2]},
        screening={"num_clips": 1, "num_inference_steps": 1, "finalists": 2},
    )
    run_worker(search.params, search.folders, search.clips, shows_progress=False)
    return search


def rounds_of(search):
    first = concluded(first_round(search.params, search.clips), search.folders)
    second = second_round(search.params, search.clips, first.study)
    return first, concluded(second, search.folders)


@pytest.mark.slow(20)
def test_the_best_of_the_cheap_trials_are_confirmed_on_all_clips_and_one_of_them_is_chosen(screened):
    first, second = rounds_of(screened)
    assert [trial.user_attrs["clips"] for trial in first.trials] == [1, 1, 1]
    assert [trial.user_attrs["clips"] for trial in second.trials] == [2, 2]
    ranked = sorted(first.trials, key=lambda trial: -trial.value)
    assert [trial.params for trial in second.trials] == [trial.params for trial in ranked[:2]]
    assert [trial.user_attrs["origin"] for trial in second.trials] == [
        f"{first.study.study_name}/{trial.number}" for trial in ranked[:2]
    ]
    summary, sentence = summary_of(screened.params.search, [first, second])
    assert summary["study"] == second.study.study_name
    assert summary["point"] == max(second.trials, key=lambda trial: trial.value).params
    assert summary["screening"]["confirmed"] == 2
    assert "screened on 1 clips with 1 sampling steps" in sentence
    table = table_of([first, second], [])
    assert list(table["round"]) == ["confirmation"] * 2 + ["screening"] * 3
    # Full fidelity needs other continuations, and the same adapters.
    assert len(screened.entries("adapter")) == len(screened.entries("optimizer"))
    full = screened.params.generation.num_inference_steps
    for trial in second.trials:
        runner = second.of.runner(screened.folders)
        assert second.of.params.generation.num_inference_steps == full
        assert all(runner.is_done(clip, trial.params) for clip in screened.clips)


@pytest.mark.slow(5)
def test_run_again_a_finished_search_does_nothing(screened):
    before = screened.entries("continuation"), screened.entries("result")
    names = [each.study.study_name for each in rounds_of(screened)]
    run_worker(screened.params, screened.folders, screened.clips, shows_progress=False)
    assert (screened.entries("continuation"), screened.entries("result")) == before
    assert [each.study.study_name for each in rounds_of(screened)] == names
