"""What the baseline and the adapted model are read against: the same measurements of other continuations."""

from dataclasses import dataclass

LAST_FRAME, RECONSTRUCTION, OTHER_SEED = "last_frame", "reconstruction", "other_seed"


@dataclass(frozen=True)
class Yardstick:
    """A continuation without adaptation that tells what a value is worth.

    Attributes:
        name: in files and keys.
        title: in tables.
        meaning: in one sentence.
    """

    name: str
    title: str
    meaning: str


YARDSTICKS = (
    Yardstick(
        LAST_FRAME, "Last known frame repeated", "The last frame that the model saw, as a still picture."
    ),
    Yardstick(
        RECONSTRUCTION,
        "VAE of the truth",
        "The true frames through the model's VAE and back: the ceiling of what it can show.",
    ),
    Yardstick(
        OTHER_SEED,
        "Baseline, other seed",
        "The baseline from other noise: what luck alone changes.",
    ),
)
