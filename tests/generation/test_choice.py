"""The choice among samples."""

import numpy as np
import pytest

from lora_tta.generation.choice import medoid


def test_the_medoid_is_the_sample_in_the_middle_of_the_others():
    samples = [np.full((2, 4, 4, 3), value, np.uint8) for value in (0, 90, 100, 255)]
    assert medoid(samples) == 2


def test_it_has_the_least_sum_of_squared_distances():
    generator = np.random.default_rng(0)
    samples = [generator.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8) for _ in range(5)]
    flat = np.array([sample.ravel() for sample in samples], dtype=float)
    distances = [sum(np.square(one - other).sum() for other in flat) for one in flat]
    assert medoid(samples) == int(np.argmin(distances))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_order_of_the_samples_does_not_matter_but_among_equals(order):
    samples = [np.full((1, 2, 2, 3), value, np.uint8) for value in (10, 20, 40)]
    assert samples[order[medoid([samples[number] for number in order])]][0, 0, 0, 0] == 20
    assert medoid([samples[0]] * 3) == 0
