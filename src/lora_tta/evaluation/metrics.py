"""The metrics of :data:`lora_tta.records.metric_table.METRICS`, measured on one clip.

The function of a metric returns a :class:`~lora_tta.evaluation.measurement.Measurement`. Its parameters name
the inputs that it takes:

- ``generated``: the generated frames, a float tensor (n, 3, height, width) in 0..255;
- ``target``: the true frames, likewise, for a metric that needs a reference;
- ``distance``: the :class:`~lora_tta.evaluation.perceptual.PerceptualDistance` of the run.
"""

import math
from importlib import import_module
from inspect import signature

import numpy as np
import torch
from torch import Tensor

from lora_tta.errors import FailedWork, UserError
from lora_tta.evaluation.measurement import Measurement
from lora_tta.evaluation.perceptual import MIN_FRAME_SIZE, PerceptualDistance
from lora_tta.records.metric_table import METRICS, ClipMetrics, Metric


class ContinuationMetrics:
    """Measures generated frames.

    Args:
        distance: the perceptual distance; of LPIPS and its untrained stand-in, only this one is measured.
        device: where the metrics are computed.
    """

    def __init__(self, distance: PerceptualDistance, device: torch.device | str) -> None:
        self.distance = distance
        self.device = device
        self._rows = [row for row in METRICS if row.distance in (None, distance.name)]

    @property
    def metric_names(self) -> list[str]:
        """The metrics that are measured, in the order of the table."""
        return [row.name for row in self._rows]

    @torch.inference_mode()
    def __call__(self, generated: np.ndarray, target: np.ndarray) -> ClipMetrics:
        """Measure one clip.

        Args:
            generated: (n, height, width, 3) RGB uint8, the generated frames.
            target: the true frames, of the same shape and type.

        Raises:
            ValueError: the arrays are not uint8 RGB frames of one shape, or fewer than two.
            UserError: the frames are smaller than 31 pixels, which LPIPS cannot take.
            FailedWork: a value is not finite.
        """
        _check_frames(generated, target)
        frames, reference = self._to_tensor(generated), self._to_tensor(target)
        # TF32 convolutions would ruin SSIM, which subtracts large squares from each other.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            measured = {row.name: self._measure(row, frames, reference) for row in self._rows}
        for name, measurement in measured.items():
            if not math.isfinite(measurement.value):
                raise FailedWork(f"{name} is {measurement.value:g}")
        return ClipMetrics(
            per_frame={
                name: measurement.per_frame
                for name, measurement in measured.items()
                if measurement.per_frame is not None
            },
            summary={name: measurement.value for name, measurement in measured.items()},
        )

    def _measure(self, row: Metric, generated: Tensor, target: Tensor) -> Measurement:
        module, _, name = row.measure.partition(":")
        function = getattr(import_module(module), name)
        inputs = {"generated": generated, "target": target, "distance": self.distance}
        return function(**{given: inputs[given] for given in signature(function).parameters})

    def _to_tensor(self, frames: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).to(self.device).float()


def _check_frames(generated: np.ndarray, target: np.ndarray) -> None:
    for name, frames in (("generated", generated), ("target", target)):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                f"{name} must be (frames, height, width, 3) uint8: {frames.shape} {frames.dtype}"
            )
    if generated.shape != target.shape:
        raise ValueError(f"generated and target differ in shape: {generated.shape} and {target.shape}")
    if len(generated) < 2:
        raise ValueError("temporal consistency needs at least two frames")
    height, width = generated.shape[1:3]
    if min(height, width) < MIN_FRAME_SIZE:
        raise UserError(
            f"frames of {width}x{height} pixels are too small for LPIPS: "
            f"set preprocess.height and preprocess.width to {MIN_FRAME_SIZE + 1} or more"
        )
