"""What the search varies, apart from the code that needs torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LoraSettings:
    """LoRA rank, peak learning rate of AdamW and number of steps."""

    rank: int
    learning_rate: float
    num_steps: int
