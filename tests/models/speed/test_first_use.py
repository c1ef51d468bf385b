"""What counts as a first use, and that it is alone on the GPU."""

from types import SimpleNamespace

import pytest
import torch

from lora_tta.models.speed import first_use
from lora_tta.models.speed.first_use import GPU_ALONE, FirstUses


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless a test sets it."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(first_use, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_seconds_of_first_uses_add_up(clock):
    uses = FirstUses()
    assert uses.seconds == 0
    for seconds in (3, 4):
        with uses.counted():
            clock.now += seconds
        clock.now += 1000  # what is no first use does not count
    assert uses.seconds == 7


def test_work_that_raises_is_counted_too_and_leaves_the_gpu_to_others(clock):
    uses = FirstUses()

    def run_out_of_memory() -> None:
        with uses.counted():
            clock.now += 3
            raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        run_out_of_memory()
    assert uses.seconds == 3
    assert not GPU_ALONE.locked()


def test_nobody_else_uses_the_gpu_meanwhile():
    with FirstUses().counted():
        assert GPU_ALONE.locked()
    assert not GPU_ALONE.locked()


def test_a_key_is_new_once():
    uses = FirstUses()
    assert [uses.is_new(key) for key in ("a", "b", "a", (1, 2), (1, 2))] == [True, True, False, True, False]
    assert FirstUses().is_new("a")
