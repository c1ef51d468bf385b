"""Two-scale classifier-free guidance of Open-Sora v2.0, for text and for the visual condition.

The model is evaluated in up to three branches, always in this order: prompt with condition (v1), empty prompt
with condition (v2), empty prompt without condition (v3), which combine to

    v = v3 + image_scale (v2 - v3) + text_scale (v1 - v2).

Branches that cancel out of the formula are not evaluated.
"""

from dataclasses import dataclass

from torch import Tensor

# With oscillation, guidance is off at every odd step from this one on.
FIRST_OSCILLATING_STEP = 10


@dataclass(frozen=True)
class Guidance:
    """Guidance scales of a sampling run.

    Attributes:
        text_scale: weight of the prompt, 1 being no guidance.
        image_scale: weight of the visual condition, 1 being no guidance.
        oscillation: whether every odd step from the tenth on goes without guidance.
        has_condition: whether there is a visual condition; without one v2 equals v3.
    """

    text_scale: float
    image_scale: float
    oscillation: bool
    has_condition: bool

    @property
    def max_branches(self) -> int:
        """The most branches that any step evaluates."""
        return self.num_branches(0)

    def num_branches(self, step: int) -> int:
        """How many branches, 1 to 3, the step (counted from 0) evaluates."""
        if self.oscillation and step >= FIRST_OSCILLATING_STEP and step % 2 == 1:
            return 1
        if self.has_condition and self.image_scale != 1:
            return 3
        return 2 if self.text_scale != 1 else 1

    def combine(self, velocities: tuple[Tensor, ...]) -> Tensor:
        """The guided velocity (B, N, C) from the velocities of one to three branches, each (B, N, C)."""
        if len(velocities) == 1:
            return velocities[0]
        if len(velocities) == 2:
            text, empty = velocities
            return empty + self.text_scale * (text - empty)
        text, empty, unconditional = velocities
        return unconditional + self.image_scale * (empty - unconditional) + self.text_scale * (text - empty)
