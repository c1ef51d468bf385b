import numpy as np
import pytest
import torch

from lora_tta.generation.continuation import generate_continuation


@pytest.fixture
def generate(backbone, params, moving_frames):
    conditioning = backbone.encode(moving_frames[:33, :32, :48], "sliding pattern")
    return lambda seed: generate_continuation(backbone, conditioning, params.generation, seed)


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
