"""Workers on real studies, with real processes and a real MLflow store, on a tiny model."""

import multiprocessing
import os
import random
import signal
import threading
import time

import pytest
from optuna.trial import TrialState

from lora_tta.experiment.beside import Beside
from lora_tta.search.launch import run_local_workers
from lora_tta.search.rounds import run_worker
from lora_tta.search.samplers import build_sampler
from lora_tta.search.study import point_of
from lora_tta.search.worker import WORKER_ATTRIBUTE


def test_a_worker_finishes_the_study_and_logs_every_trial_once(undisturbed):
    search = undisturbed()
    outcome = search.outcome()
    assert [state for state, _, _ in outcome.values()] == [TrialState.COMPLETE] * 4
    tracked = search.tracked()
    assert set(tracked) == {"", "0", "1", "2", "3"}
    for number, (_, _, values) in outcome.items():
        assert tracked[str(number)] == [("FINISHED", pytest.approx(values[0]))]


def test_another_worker_finds_nothing_to_do(undisturbed):
    search = undisturbed()
    before = search.outcome(), search.entries("result")
    search.worker().work()
    assert (search.outcome(), search.entries("result")) == before


@pytest.mark.usefixtures("forkserver_with_model")
def test_two_processes_give_what_one_gives(undisturbed, search_in, tmp_path):
    alone, together = undisturbed(), search_in("together")
    # Made by both at once, as at a user's first search.
    (tmp_path / "together" / "mlflow.db").unlink()
    run_local_workers(together.params, together.folders, together.clips, processes=2)
    assert together.outcome() == alone.outcome()
    assert together.entries("result").keys() == alone.entries("result").keys()


def test_an_idle_worker_takes_clips_of_a_running_trial_from_its_end(search_in):
    search = search_in("study", num_clips=3)
    owner, helper = search.worker(), search.worker()
    with owner._heartbeat:
        point = point_of(owner._claim())
        with owner.runner._whole(owner.runner._works(search.clips[0], point)):
            assert helper._help()
    assert len(search.entries("result")) == 2
    assert [helper.runner.is_done(clip, point) for clip in search.clips] == [False, True, True]


def test_a_clip_in_a_helpers_hands_comes_last_and_changes_no_value(undisturbed, search_in, monkeypatch):
    point = {"rank": 2, "learning_rate": 1e-3, "num_steps": 1}
    settings = {"num_clips": 3, "space": {name: [value] for name, value in point.items()}}
    alone, search = undisturbed(**settings), search_in("helped", **settings)
    owner, helper = search.worker(), search.worker()
    tried, try_begin = [], owner.runner.try_begin

    def recording(clip, arm):
        begun = try_begin(clip, arm)
        if arm is not None and begun:
            tried.append(search.clips.index(clip))
        return begun

    def release():
        if tried == [1, 2]:
            first.release()
        return iter(())

    monkeypatch.setattr(owner.runner, "try_begin", recording)
    monkeypatch.setattr(owner, "_begun_for_others", release)
    first = helper.runner._whole(helper.runner._works(search.clips[0], point))
    with first:
        owner.work()
    assert tried == [1, 2, 0]
    assert search.outcome() == alone.outcome()
    assert search.study().trials[0].intermediate_values == alone.study().trials[0].intermediate_values


def test_a_worker_that_waits_for_a_helper_begins_one_clip_of_another_trial_and_none_of_its_own(
    search_in, monkeypatch
):
    search = search_in("study", num_clips=3)
    owner, other = search.worker(), search.worker()
    owner.runner.beside = Beside(threaded=True, num_threads=1)
    returned, measured = threading.Event(), owner.runner._measured

    def measure(*frames):
        assert returned.wait(30), "the model waits for the measurements of the other trial's clip"
        return measured(*frames)

    monkeypatch.setattr(owner.runner, "_measured", measure)
    with owner._heartbeat, other._heartbeat:
        own, others = (point_of(worker._claim()) for worker in (owner, other))
        with owner.runner.working():
            begun = next(owner._begun_for_others())
            returned.set()
        assert begun.result().clip == search.clips[-1]
        assert [owner.runner.is_done(clip, others) for clip in search.clips] == [False, False, True]
        assert not any(owner.runner.is_done(clip, own) for clip in search.clips)


def test_its_clips_follow_each_other_without_waiting_for_their_measurements(search_in, monkeypatch):
    search = search_in("study", num_clips=2)
    owner, helper = search.worker(), search.worker()
    helper.runner.beside = Beside(threaded=True, num_threads=1)
    second_began = threading.Event()
    begin, measured = helper.runner._begin, helper.runner._measured

    def begin_clip(works, lock):
        if works[0].clip == search.clips[0]:
            second_began.set()
        return begin(works, lock)

    def measure(*frames):
        assert second_began.wait(30)
        return measured(*frames)

    monkeypatch.setattr(helper.runner, "_begin", begin_clip)
    monkeypatch.setattr(helper.runner, "_measured", measure)
    with owner._heartbeat:
        owner._claim()
        assert helper._help()


def test_a_living_workers_trial_is_left_alone_and_a_dead_ones_is_taken_over(search_in):
    search = search_in("study")
    first, second = search.worker(), search.worker()
    with second._heartbeat:
        with first._heartbeat:
            claimed = first._claim()
            assert second._claim().number == claimed.number + 1
        taken_over = second._claim()
    assert taken_over.number == claimed.number
    assert taken_over.params == claimed.params


def test_a_trial_of_a_worker_that_died_while_claiming_it_is_finished_first(search_in):
    search = search_in("study")
    expected = search_in("undisturbed").worker()._claim()
    victim, survivor = search.worker(), search.worker()
    with victim._heartbeat, survivor._heartbeat:
        victim.study.sampler = build_sampler(search.params.search, seed=0)
        half_claimed = victim.study.ask()
        half_claimed.set_user_attr(WORKER_ATTRIBUTE, victim._heartbeat.worker_id)
        half_claimed.suggest_categorical("rank", search.params.search.space["rank"])
        claimed = survivor._claim()
    assert claimed.number == half_claimed.number
    assert claimed.params == expected.params


def test_a_pruner_stops_a_hopeless_trial(search_in):
    search = search_in(
        "study",
        num_clips=2,
        windows=(33, 32),
        pruner="median",
        space={
            "rank": [2],
            "learning_rate": [1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0],
            "num_steps": [2],
        },
    )
    search.worker().work()
    states = {trial.state for trial in search.study().trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}
    pruned = next(trial for trial in search.study().trials if trial.state == TrialState.PRUNED)
    assert pruned.user_attrs["clips"] < 2


def test_wilcoxons_test_on_paired_clips_saves_the_later_clips_of_a_trial_that_is_always_worse(search_in):
    search = search_in(
        "study",
        num_clips=5,
        pruner="wilcoxon",
        windows=(33, 32),
        objectives=[{"metric": "motion_error", "direction": "minimize"}],
        space={"rank": [2], "learning_rate": [1e-3, 0.1], "num_steps": [2]},
    )
    search.worker().work()
    good, worse = search.study().trials
    assert (good.state, good.user_attrs["clips"]) == (TrialState.COMPLETE, 5)
    # Four clips out of four that are worse have a probability of 1/16 by chance.
    assert (worse.state, worse.user_attrs["clips"]) == (TrialState.PRUNED, 4)
    assert len(search.entries("adapter")) == 5 + 4
    assert len(search.entries("continuation")) == 5 + 4 + 5  # with the baseline


def test_several_objectives_and_a_constraint(search_in):
    search = search_in(
        "study",
        objectives=[
            {"metric": "psnr", "direction": "maximize"},
            {"metric": "adapt_seconds_per_clip", "direction": "minimize"},
        ],
        constraints=[{"metric": "peak_memory_mib", "at_most": 1.0}],
    )
    search.worker().work()
    trials = search.study().trials
    assert all(len(trial.values) == 2 for trial in trials)
    assert all(trial.constraints["peak_memory_mib"] > 0 for trial in trials)


@pytest.mark.slow(70)
@pytest.mark.usefixtures("forkserver_with_model")
def test_nothing_is_lost_when_workers_are_killed_at_random_moments(search_in):
    size = {
        "num_clips": 2,
        "space": {"rank": [2, 4], "learning_rate": [1e-3, 1e-2], "num_steps": [1, 2]},
        "n_trials": 8,
    }
    undisturbed, disturbed = search_in("undisturbed", **size), search_in("disturbed", **size)
    began = time.monotonic()
    undisturbed.worker().work()
    seconds_per_trial = (time.monotonic() - began) / 8

    context = multiprocessing.get_context("forkserver")
    arguments = (disturbed.params, disturbed.folders, disturbed.clips)
    moments, kills, seen = random.Random(0), 0, {}

    def start():
        process = context.Process(target=run_worker, args=arguments)
        process.start()
        return process

    workers = [start(), start()]
    while any(worker.is_alive() for worker in workers):
        # By this machine's own pace, so that there is work left for all the kills on any machine.
        time.sleep(moments.uniform(0.05, 0.8) * seconds_per_trial)
        for kind in ("result", "adapter", "continuation"):
            seen |= disturbed.entries(kind)
        victim = moments.randrange(2)
        if workers[victim].is_alive() and kills < 15:
            os.kill(workers[victim].pid, signal.SIGKILL)
            workers[victim].join()
            workers[victim] = start()
            kills += 1
    assert kills >= 12
    assert disturbed.outcome() == undisturbed.outcome()
    assert disturbed.tracked() == undisturbed.tracked()
    kept = {
        name: inode
        for kind in ("result", "adapter", "continuation")
        for name, inode in disturbed.entries(kind).items()
    }
    assert seen.items() <= kept.items(), "a finished part was made again"
    assert not list(disturbed.params.cache.path.glob("*/*/*.partial"))
