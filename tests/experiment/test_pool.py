"""Clips spread over processes: order, failures, and what becomes of the processes."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest
import torch

from lora_tta.cache.store import ContentCache
from lora_tta.errors import FailedWork, UserError
from lora_tta.experiment import pool, preloaded
from lora_tta.experiment.pool import clips_at_work, run_arms
from lora_tta.experiment.runner import ClipRunner
from lora_tta.records.outcome import ClipFailure

TIMEOUT = 90  # seconds, which only a test that fails waits
POINT = {"rank": 2, "learning_rate": 1e-2, "num_steps": 1}

# Runs clips as a stage does, and tells what came back and whether it has imported torch.
STAGE = """
import pickle, sys
from lora_tta.experiment.pool import clips_at_work

if __name__ == "__main__":
    tasks = pickle.load(sys.stdin.buffer)
    with clips_at_work(tasks, "baseline") as arriving:
        outcomes = [outcome for (outcome,) in arriving]
    print([outcome.clip.clip_id for outcome in outcomes], "torch" in sys.modules)
"""


@pytest.fixture
def alone(ready):
    """Both clips, to be worked on in this process."""
    ready.change("workers", processes=1)
    return ready


@pytest.fixture
def together(ready, forkserver_with_model):
    """Both clips, to be worked on by two processes."""
    ready.change("workers", processes=2)
    return ready


def test_one_process_is_this_one_and_clips_come_in_their_order(alone, monkeypatch):
    monkeypatch.setattr(pool, "forkserver", lambda preload: pytest.fail("a process was started"))
    tasks = alone.tasks(None)._replace(clips=alone.clips[::-1])
    with clips_at_work(tasks, "baseline") as arriving:
        assert [outcome.clip for (outcome,) in arriving] == alone.clips[::-1]


def test_every_clip_comes_with_an_outcome_for_each_point(alone):
    with clips_at_work(alone.tasks(POINT, None), "adapt") as arriving:
        for clip, (adapted, before) in zip(alone.clips, arriving, strict=True):
            assert adapted.clip == before.clip == clip
            assert adapted.adapter is not None
            assert before.adapter is None


@pytest.fixture
def failing(monkeypatch):
    """Clips that raise, by clip id and at any point but None; also lists the clips that were begun."""
    errors, begun = {}, []
    begin = ClipRunner.begin

    def maybe(self, clip, point):
        begun.append(clip.clip_id)
        if point is not None and clip.clip_id in errors:
            raise errors[clip.clip_id]
        return begin(self, clip, point)

    monkeypatch.setattr(ClipRunner, "begin", maybe)
    return errors, begun


def test_more_than_a_tenth_of_failed_clips_ends_the_work_with_the_reason(alone, failing):
    errors, begun = failing
    first = alone.clips[0].clip_id
    errors[first] = FailedWork("the generated frames are not finite")
    tasks = alone.tasks(POINT)._replace(clips=alone.clips + alone.clips[1:] * 3)
    with (
        clips_at_work(tasks, "adapt") as arriving,
        pytest.raises(UserError, match=rf"adapt: 1 of 5 clips failed.*{first}.*not finite"),
    ):
        list(arriving)
    assert len(begun) == 2  # the second was begun before the first was handed on


def test_a_clip_that_fails_at_one_point_has_its_outcome_at_the_other(alone, failing):
    failing[0][alone.clips[0].clip_id] = RuntimeError("no\nroom")
    runner = alone.runner()
    with runner.working():
        adapted, before = run_arms(runner, alone.clips[0], [POINT, None]).result()
    assert adapted == ClipFailure(alone.clips[0], "RuntimeError: no room")
    assert before.clip == alone.clips[0]


def test_what_fails_after_the_models_work_is_a_failure_too(alone, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(ClipRunner, "_outcome", fail)
    runner = alone.runner()
    with runner.working():
        (failure,) = run_arms(runner, alone.clips[0], [None]).result()
    assert failure == ClipFailure(alone.clips[0], "OSError: no space left")


def test_an_error_of_the_user_is_not_a_failure_of_the_clip(alone, failing):
    failing[0][alone.clips[0].clip_id] = UserError("evaluation.lpips is 'required'")
    with (
        clips_at_work(alone.tasks(POINT), "adapt") as arriving,
        pytest.raises(UserError, match="required"),
    ):
        list(arriving)


def test_outcomes_that_come_in_any_order_are_handed_on_in_that_of_the_clips(alone):
    arriving = iter([(2, ("c",)), (0, ("a",)), (1, ("b",)), (3, ("d",))])
    tasks = alone.tasks(None)._replace(clips=alone.clips * 2)
    assert list(pool._checked(arriving, tasks, "baseline")) == [("a",), ("b",), ("c",), ("d",)]


@pytest.mark.parametrize(("failed", "ends"), [(1, False), (2, True)])
def test_a_tenth_of_the_clips_may_fail_wherever_they_come(alone, failed, ends):
    clip = alone.clips[0]
    outcomes = [("done",)] * (10 - failed) + [(ClipFailure(clip, "a loss that is nan"),)] * failed
    tasks = alone.tasks(None)._replace(clips=[clip] * 10)
    checked = pool._checked(enumerate(outcomes), tasks, "baseline")
    if not ends:
        assert list(checked) == outcomes
        return
    with pytest.raises(UserError, match=r"baseline: 2 of 10 clips failed.*a loss that is nan"):
        list(checked)


def test_only_failures_at_the_first_point_end_the_work(alone):
    clip = alone.clips[0]
    outcomes = [("adapted", ClipFailure(clip, "known from the stage before"))] * 2
    assert list(pool._checked(enumerate(outcomes), alone.tasks(POINT, None), "adapt")) == outcomes


class Errand:
    """What a process is given besides its tasks, for a worker in this process."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.taken, self.results, self.done = context.Value("i", 0), context.SimpleQueue(), context.Event()
        self.done.set()

    def run(self, tasks, index=0):
        """All that the worker sends."""
        pool._work(tasks, index, self.taken, self.results, self.done)
        received = []
        while not self.results.empty():
            received.append(self.results.get())
        return received


def test_a_worker_takes_the_clips_that_no_other_has_taken(alone):
    errand = Errand()
    errand.taken.value = 1
    ((number, (outcome,)),) = errand.run(alone.tasks(None))
    assert (number, outcome.clip) == (1, alone.clips[1])
    assert errand.run(alone.tasks(None)) == []


def test_each_worker_takes_the_gpu_of_its_number(alone, monkeypatch):
    taken = []

    def build(params, clips_folder, encoded):
        taken.append(os.environ["CUDA_VISIBLE_DEVICES"])
        return ClipRunner(params, clips_folder, encoded)

    monkeypatch.setattr(preloaded, "ClipRunner", build)
    for index in (0, 3):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
        Errand().run(alone.tasks(None)._replace(clips=[]), index)
    assert taken == ["4", "7"]


def lose_model(ready) -> str:
    """What is wrong when the model begins with a clip."""
    ready.change("model", path=ready.folder / "nowhere")
    return "nowhere holds no model"


def damage_clip(ready) -> str:
    """What is wrong when the model is done with a clip, whose later frames are read to measure."""
    damaged = ready.folder / "clips" / ready.clips[0].file_name
    damaged.write_bytes(b"")
    return str(damaged)


@pytest.mark.parametrize("harm", [lose_model, damage_clip])
def test_a_worker_sends_a_users_error_as_one_line(alone, harm):
    reason = harm(alone)
    lines = [sent for sent in Errand().run(alone.tasks(None)) if isinstance(sent, str)]
    assert len(lines) == 1
    assert reason in lines[0]
    assert "\n" not in lines[0]


@pytest.mark.slow(12)
def test_processes_keep_the_files_in_the_cache_until_the_block_ends(together):
    cache = ContentCache(together.params.cache.path, together.params.cache.max_bytes)
    with clips_at_work(together.tasks(POINT, None), "adapt") as arriving:
        pairs = list(arriving)
        assert [adapted.clip for adapted, _ in pairs] == together.clips
        cache.evict(0)
        files = [adapted.adapter for adapted, _ in pairs]
        files += [file for pair in pairs for outcome in pair for file in (outcome.video, outcome.frames_file)]
        assert all(file.exists() for file in files)
    assert not multiprocessing.active_children()
    cache.evict(0)
    assert not any(file.exists() for file in files)


@pytest.fixture
def held_up(together):
    """The tasks of two processes that get no clip done, since this one has both in its hands."""
    runner = together.runner()
    locks = [runner._whole(runner._works(clip, None)) for clip in together.clips]
    for lock in locks:
        lock.acquire()
    yield together.tasks(None)
    for lock in locks:
        lock.release()


def error_of(stage: Callable[[], None]) -> BaseException:
    """What a stage ends with, in time."""
    ended: Future[None] = Future()

    def run() -> None:
        try:
            ended.set_result(stage())
        except Exception as error:
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return ended.exception(TIMEOUT)
    finally:
        left = multiprocessing.active_children()
        for process in left:
            process.kill()
        assert not left


def test_an_error_of_the_one_that_waits_ends_the_processes(held_up):
    def stage() -> None:
        with clips_at_work(held_up, "baseline"):
            assert len(multiprocessing.active_children()) == 2
            raise RuntimeError("no room")

    assert str(error_of(stage)) == "no room"


def test_a_killed_process_is_one_line_that_says_what_to_do(held_up):
    def stage() -> None:
        with clips_at_work(held_up, "baseline") as arriving:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            next(arriving)

    error = error_of(stage)
    assert isinstance(error, UserError)
    assert str(error).startswith("baseline: a process died")
    assert "lower workers.processes" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("harm", [lose_model, damage_clip])
def test_a_users_error_in_a_process_is_one_line_and_ends_the_others(together, harm):
    reason = harm(together)

    def stage() -> None:
        with clips_at_work(together.tasks(None), "baseline") as arriving:
            list(arriving)

    error = error_of(stage)
    assert isinstance(error, UserError)
    assert reason in str(error)
    assert "\n" not in str(error)


@pytest.mark.slow(8)
def test_the_process_that_waits_for_others_imports_no_torch(together, tmp_path):
    script = tmp_path / "stage.py"
    script.write_text(STAGE)
    given = pickle.dumps(together.tasks(None)._replace(clips=together.clips[::-1]))
    out = subprocess.run([sys.executable, script], input=given, capture_output=True, check=True).stdout
    assert out.decode().strip() == f"{[clip.clip_id for clip in together.clips[::-1]]} False"


def test_the_model_is_a_clip_ahead_of_what_is_handed_on():
    begun = []

    def futures():
        for number in range(3):
            begun.append(number)
            future = Future()
            future.set_result(number)
            yield future

    arriving = pool._one_behind(futures())
    assert [(result, begun[-1]) for result in arriving] == [(0, 1), (1, 2), (2, 2)]


@pytest.mark.gpu
def test_each_gpu_gets_one_process_and_all_of_them_work(ready):
    ready.change("workers", processes="auto")
    ready.change("model", device="cuda", accelerate=False)
    with clips_at_work(ready.tasks(POINT, None), "adapt") as arriving:
        pairs = list(arriving)
    assert not [part for pair in pairs for part in pair if isinstance(part, ClipFailure)]
    assert {part.result.device for pair in pairs for part in pair} == {torch.cuda.get_device_name()}
