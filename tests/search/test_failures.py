"""What a study does about work that fails, and about mistakes of its user."""

import errno
import multiprocessing
import shutil
import time
from dataclasses import dataclass, field

import pytest
from optuna.trial import TrialState

from lora_tta.errors import UserError
from lora_tta.evaluation.perceptual import load_perceptual_distance
from lora_tta.experiment import runner as runner_module
from lora_tta.experiment.beside import Beside
from lora_tta.experiment.runner import ClipRunner
from lora_tta.search import worker as worker_module
from lora_tta.search.launch import run_local_workers
from lora_tta.search.study import JOURNAL, best_trial, failure_of, finished_trials, point_of
from lora_tta.search.study_export import export_study

DIVERGING = 1e30
LEARNING_RATES = {"rank": [2], "learning_rate": [1e-3, 1e-2], "num_steps": [1]}


@dataclass
class Fault:
    """Replaces the adaptation to clips with one that raises at a learning rate, ``times`` times."""

    learning_rate: float
    times: int
    error: Exception = field(default_factory=lambda: RuntimeError("a passing\nfault"))

    def put_into(self, monkeypatch):
        real = ClipRunner._adapter

        def adapter(runner, work, adaptation):
            if adaptation.learning_rate == self.learning_rate and self.times:
                self.times -= 1
                raise self.error
            return real(runner, work, adaptation)

        monkeypatch.setattr(ClipRunner, "_adapter", adapter)


def test_a_full_disk_ends_the_search_in_one_line_and_costs_no_trial(search_in, monkeypatch):
    search = search_in("study", space=LEARNING_RATES, n_trials=2, num_clips=1)
    fault = Fault(1e-3, times=1, error=OSError(errno.ENOSPC, "No space left on device"))
    fault.put_into(monkeypatch)
    with pytest.raises(UserError, match=r"^No space left on device: free some space and run again"):
        search.worker().work()
    assert not [
        trial for trial in search.study().trials if trial.state.is_finished() or "failure" in trial.user_attrs
    ]
    search.worker().work()
    assert [trial.state for trial in search.study().trials] == [TrialState.COMPLETE] * 2
    assert {key: len(runs) for key, runs in search.runs().items()} == {"": 1, "0": 1, "1": 1}


def test_a_diverging_trial_fails_at_once_with_its_reason_and_the_study_goes_on(search_in):
    search = search_in(
        "study", space={"rank": [2], "learning_rate": [DIVERGING, 1e-3], "num_steps": [3]}, num_clips=1
    )
    search.worker().work()
    failed, complete = search.study().trials
    assert (failed.params["learning_rate"], failed.state) == (DIVERGING, TrialState.FAIL)
    reason = failed.user_attrs["failure"]
    assert reason == "the training loss is nan at step 3"
    assert failed.user_attrs["tries"] == 1
    assert complete.state == TrialState.COMPLETE
    assert best_trial(search.study(), 2).number == complete.number

    (run,), (other,) = search.runs()["0"], search.runs()["1"]
    assert run.info.status == "FAILED"
    assert run.data.tags["lora_tta.failure"] == reason
    assert reason in run.data.tags["mlflow.note.content"]
    assert other.info.status == "FINISHED"
    assert "lora_tta.failure" not in other.data.tags


def test_a_failed_trial_counts_among_the_trials_of_the_study(search_in):
    search = search_in(
        "study",
        num_clips=1,
        n_trials=2,
        space={"rank": [2], "learning_rate": [DIVERGING, 1e-3, 1e-2], "num_steps": [2]},
    )
    search.worker().work()
    assert [trial.state for trial in search.study().trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_study_of_failed_trials_ends_with_the_first_reason(search_in):
    space = {"rank": [2], "learning_rate": [DIVERGING, 2 * DIVERGING], "num_steps": [2]}
    search = search_in("study", num_clips=1, space=space)
    search.worker().work()
    reason = failure_of(search.study().trials[0])
    with pytest.raises(UserError) as caught:
        best_trial(search.study(), 2)
    assert str(caught.value).endswith(reason)


def test_work_that_keeps_raising_is_tried_three_times(search_in, monkeypatch):
    search = search_in("study", num_clips=1, space=LEARNING_RATES)
    fault = Fault(1e-3, times=100)
    fault.put_into(monkeypatch)
    search.worker().work()
    assert fault.times == 97
    failed, complete = search.study().trials
    assert (failed.state, complete.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert failure_of(failed) == "RuntimeError: a passing fault"
    (run,) = search.runs()["0"]
    assert (run.info.status, run.data.tags["lora_tta.failure"]) == ("FAILED", failure_of(failed))


@pytest.mark.slow(10)
@pytest.mark.parametrize("times", [1, 2])
def test_a_trial_outlives_a_fault_that_passes(undisturbed, search_in, monkeypatch, times):
    alone = undisturbed(space=LEARNING_RATES)
    search = search_in("study", space=LEARNING_RATES)
    Fault(1e-3, times).put_into(monkeypatch)
    search.worker().work()
    assert search.outcome() == alone.outcome()
    assert search.tracked() == alone.tracked()
    (run,) = search.runs()["0"]
    assert "lora_tta.failure" not in run.data.tags
    exports = [
        export_study(one.study(), finished_trials(one.study(), 2), one.folders.study).read_bytes()
        for one in (search, alone)
    ]
    assert exports[0] == exports[1]


@pytest.mark.slow(8)
def test_a_trial_outlives_a_fault_in_what_a_thread_does_beside_the_model(undisturbed, search_in, monkeypatch):
    alone = undisturbed(space=LEARNING_RATES)
    search = search_in("study", space=LEARNING_RATES)
    worker, drawn, draw = search.worker(), [], worker_module.strip

    def failing_at_first(*arguments):
        drawn.append(arguments)
        if len(drawn) == 1:
            raise RuntimeError("a passing fault")
        return draw(*arguments)

    monkeypatch.setattr(worker_module, "strip", failing_at_first)
    worker.runner.beside = Beside(threaded=True, num_threads=1)
    worker.work()
    assert search.study().trials[0].user_attrs["tries"] == 1
    assert search.outcome() == alone.outcome()
    assert search.tracked() == alone.tracked()


def test_an_idle_worker_leaves_a_failure_to_the_trials_own(search_in, monkeypatch):
    search = search_in(
        "study", num_clips=2, space={"rank": [2], "learning_rate": [DIVERGING], "num_steps": [2]}
    )
    owner, helper = search.worker(), search.worker()
    with owner._heartbeat:
        point = point_of(owner._claim())
        tried, try_begin = [], helper.runner.try_begin
        monkeypatch.setattr(helper.runner, "try_begin", lambda *work: tried.append(work) or try_begin(*work))
        assert not helper._help()
        # It does not come back to a point at which a clip failed.
        assert not helper._help()
        assert tried == [(search.clips[-1], point)]
    (trial,) = search.study().trials
    assert trial.state == TrialState.RUNNING


@pytest.mark.usefixtures("forkserver_with_model")
def test_a_users_mistake_ends_all_workers_with_one_line(search_in):
    search = search_in("study", num_clips=2, space=LEARNING_RATES)
    second = search.folders.clips / search.clips[1].file_name
    second.write_bytes(b"")
    # One worker waits for the first clip of a trial while the other gets to the second clip of its own.
    runner = search.worker().runner
    (work,) = runner._works(search.clips[0], {"rank": 2, "learning_rate": 1e-2, "num_steps": 1})
    began = time.monotonic()
    with runner.cache.lock(work.result_key | {"part": "whole"}), pytest.raises(UserError) as caught:
        run_local_workers(search.params, search.folders, search.clips, processes=2)
    assert time.monotonic() - began < 90
    assert str(second) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("forkserver_with_model")
def test_a_mistake_that_every_worker_meets_is_told_once(search_in):
    search = search_in("study")
    search.change("model", path=search.folders.clips.parent / "nowhere")
    with pytest.raises(UserError, match="nowhere holds no model"):
        run_local_workers(search.params, search.folders, search.clips, processes=2)
    assert not multiprocessing.active_children()


def test_required_lpips_without_its_weights_is_told_before_any_trial(search_in, monkeypatch, tmp_path):
    search = search_in("study")
    search.change("evaluation", lpips="required")
    damaged = tmp_path / "torch/hub/checkpoints/alexnet-owt-7be5be79.pth"
    damaged.parent.mkdir(parents=True)
    damaged.touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(UserError, match=r"evaluation\.lpips is 'required'"):
        search.worker()
    assert not (search.params.cache.path / JOURNAL).exists()


def test_an_objective_that_cannot_be_measured_is_told_before_any_trial(search_in, monkeypatch):
    search = search_in("study", objectives=[{"metric": "lpips_untrained", "direction": "minimize"}])

    def trained(mode, device):
        distance = load_perceptual_distance(mode, device)
        distance.name = "lpips"
        return distance

    monkeypatch.setattr(runner_module, "load_perceptual_distance", trained)
    with pytest.raises(UserError, match=r"lpips_untrained cannot be measured .* choose one of .*lpips"):
        search.worker()
    assert not (search.params.cache.path / JOURNAL).exists()


def test_a_finished_study_is_restored_and_continued_from_its_export(search_in):
    search = search_in("study", n_trials=2)
    search.worker().work()
    before = search.outcome()
    path = export_study(search.study(), finished_trials(search.study(), 2), search.folders.study)
    assert "seconds" not in path.read_text()
    shutil.rmtree(search.params.cache.path / JOURNAL.parent)
    assert search.outcome() == before

    search.change("search", n_trials=3)
    search.worker().work()
    after = search.outcome()
    assert {number: after[number] for number in (0, 1)} == before
    assert sorted(after) == [0, 1, 2]
    assert len({point for _, point, _ in after.values()}) == 3
    assert set(search.tracked()) == {"", "0", "1", "2"}
