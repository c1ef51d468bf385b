import pytest
import torch

from lora_tta.models.guidance import Guidance

TEXT, EMPTY, UNCONDITIONAL = torch.randn(3, 4, dtype=torch.float64)


def full_formula(text_scale, image_scale):
    return UNCONDITIONAL + image_scale * (EMPTY - UNCONDITIONAL) + text_scale * (TEXT - EMPTY)


@pytest.mark.parametrize(
    ("text_scale", "image_scale", "branches"), [(7.5, 3.0, 3), (1.0, 3.0, 3), (7.5, 1.0, 2), (1.0, 1.0, 1)]
)
def test_only_branches_that_matter_are_evaluated(text_scale, image_scale, branches):
    guidance = Guidance(text_scale, image_scale, oscillation=False, has_condition=True)
    assert guidance.num_branches(0) == branches
    combined = guidance.combine((TEXT, EMPTY, UNCONDITIONAL)[:branches])
    torch.testing.assert_close(combined, full_formula(text_scale, image_scale))


def test_without_condition_two_branches_are_the_same():
    guidance = Guidance(7.5, 3.0, oscillation=False, has_condition=False)
    assert guidance.num_branches(0) == 2
    torch.testing.assert_close(guidance.combine((TEXT, EMPTY)), EMPTY + 7.5 * (TEXT - EMPTY))


def test_oscillation_drops_guidance_on_odd_steps_from_the_tenth():
    guidance = Guidance(7.5, 3.0, oscillation=True, has_condition=True)
    branches = [guidance.num_branches(step) for step in range(14)]
    assert branches == [3] * 11 + [1, 3, 1]
