from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lora_tta.generation import continuation as continuation_module
from lora_tta.generation.continuation import generate_continuation


@pytest.fixture
def generate(backbone, params, moving_frames):
    conditioning = backbone.encode(moving_frames[:33, :32, :48], "sliding pattern")
    return lambda seed: generate_continuation(backbone, conditioning, 65, params.generation, seed)


def test_a_continuation_has_65_frames_of_the_clips_size_and_a_cost(generate):
    continuation = generate(0)
    assert continuation.frames.shape == (65, 32, 48, 3)
    assert continuation.frames.dtype == np.uint8
    assert continuation.seconds > 0
    assert continuation.peak_memory_bytes > 0


def test_the_seed_alone_decides(generate):
    torch.manual_seed(11)
    first = generate(0).frames
    torch.manual_seed(12)
    assert np.array_equal(generate(0).frames, first)
    assert not np.array_equal(generate(1).frames, first)


def test_seconds_are_those_of_sampling_without_what_a_process_does_once(generate, backbone, monkeypatch):
    clock, sample = SimpleNamespace(now=50.0, first_uses=7.0), type(backbone).sample

    def sampling(self, *arguments):
        clock.now += 3
        if clock.first_uses == 7:  # of this process
            clock.now += 100
            clock.first_uses += 100
        return sample(self, *arguments)

    monkeypatch.setattr(type(backbone), "sample", sampling)
    monkeypatch.setattr(type(backbone), "first_use_seconds", property(lambda self: clock.first_uses))
    monkeypatch.setattr(continuation_module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    assert [generate(0).seconds, generate(0).seconds] == [3, 3]
