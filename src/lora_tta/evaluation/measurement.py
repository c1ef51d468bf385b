"""The value of one metric for one clip."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Measurement:
    """The value of a clip, and the values of its last frames, (k,) float32, if the metric has them."""

    value: float
    per_frame: np.ndarray | None = None

    @classmethod
    def mean_of(cls, values: Tensor) -> Self:
        """A series of values (k,) and its mean."""
        series = values.cpu().numpy()
        return cls(float(series.mean(dtype=np.float64)), series)
