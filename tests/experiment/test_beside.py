"""Jobs beside the model's work: in their order, at once or by a thread."""

import threading

import pytest
import torch

from lora_tta.experiment.beside import Beside

TIMEOUT = 60  # seconds, which only a test that fails waits


@pytest.fixture(params=[False, True], ids=["inline", "threaded"])
def beside(request) -> Beside:
    return Beside(threaded=request.param, num_threads=1)


@pytest.fixture
def threaded() -> Beside:
    return Beside(threaded=True, num_threads=1)


def test_jobs_are_done_in_the_order_in_which_they_come(beside):
    done = []
    futures = [beside.submit(lambda at=number: done.append(at) or at) for number in range(5)]
    assert [future.result(TIMEOUT) for future in futures] == done == [0, 1, 2, 3, 4]


def test_an_error_is_the_futures_and_the_next_job_is_done(beside):
    def fail():
        raise OSError("no space left")

    failed, done = beside.submit(fail), beside.submit(lambda: "done")
    with pytest.raises(OSError, match="no space left"):
        failed.result(TIMEOUT)
    assert done.result(TIMEOUT) == "done"
    beside.wait()  # does not raise


def test_without_a_thread_a_job_is_done_at_once_by_the_caller():
    future = Beside(threaded=False, num_threads=1).submit(threading.get_ident)
    assert future.done()
    assert future.result() == threading.get_ident()


def test_with_a_thread_the_caller_goes_on(threaded):
    gate = threading.Event()
    blocked = threaded.submit(lambda: gate.wait(TIMEOUT))
    assert not blocked.done()
    gate.set()
    assert blocked.result(TIMEOUT)
    assert threaded.submit(threading.get_ident).result(TIMEOUT) != threading.get_ident()


def test_a_job_may_wait_for_the_result_of_an_earlier_one(beside):
    first = beside.submit(lambda: 20)
    assert beside.submit(lambda: first.result() + 1).result(TIMEOUT) == 21


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_waiting_ends_when_no_more_than_the_allowed_jobs_are_left(threaded, keep):
    gates = [threading.Event() for _ in range(3)]
    futures = [threaded.submit(lambda gate=gate: gate.wait(TIMEOUT)) for gate in gates]
    waited = threading.Event()
    waiting = threading.Thread(target=lambda: (threaded.wait(keep), waited.set()))
    waiting.start()
    for gate, future in list(zip(gates, futures, strict=True))[: 3 - keep]:
        assert not waited.is_set()
        gate.set()
        future.result(TIMEOUT)
    assert waited.wait(TIMEOUT)
    assert [future.done() for future in futures] == [True] * (3 - keep) + [False] * keep
    for gate in gates:
        gate.set()
    waiting.join()


def test_the_thread_takes_as_many_threads_of_pytorch_as_the_settings_say():
    before = torch.get_num_threads()
    beside = Beside(threaded=True, num_threads=before + 2)
    assert beside.submit(torch.get_num_threads).result(TIMEOUT) == before + 2
    assert torch.get_num_threads() == before
