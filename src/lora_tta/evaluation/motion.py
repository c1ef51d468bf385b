"""What a frozen or a blurred video does not win: how much moves, and how much changes from frame to frame.

Frames are float tensors (n, 3, height, width) in 0..255 on one device.
"""

import math
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from lora_tta.evaluation.frame_metrics import FRAMES_PER_BATCH
from lora_tta.evaluation.measurement import Measurement
from lora_tta.evaluation.perceptual import PerceptualDistance

MIN_MOTION = 0.05
"""Pixels a frame that are added to both motions: the ratio of two that stand still would be one of noise."""

# Clips are spread over processes, which would share the cores with these threads.
cv2.setNumThreads(1)


def motion_error(generated: Tensor, target: Tensor) -> Measurement:
    """How far the amount of motion is from the true one: abs(ln(generated / true)), 0 at best.

    0.69 is half or twice the motion. The amount is the mean length of the optical flow between consecutive
    frames in pixels, over all pixels and frames, by dense inverse search (Kroeger et al. 2016,
    https://doi.org/10.1007/978-3-319-46493-0_29) as OpenCV has it
    (https://docs.opencv.org/4.x/da/d06/classcv_1_1DISOpticalFlow.html), preset "medium".
    """
    return Measurement(abs(math.log((motion(generated) + MIN_MOTION) / (motion(target) + MIN_MOTION))))


def motion(frames: Tensor) -> float:
    """Mean length of the optical flow between consecutive frames, in pixels a frame."""
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    images = frames.permute(0, 2, 3, 1).round().to(torch.uint8).cpu().numpy()
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    # The stub wants an array, which would be the flow to start from.
    flows = (estimator.calc(*pair, None) for pair in pairwise(gray))  # type: ignore[no-matching-overload]
    return float(np.mean([np.hypot(flow[..., 0], flow[..., 1]).mean(dtype=np.float64) for flow in flows]))


def temporal_distance(generated: Tensor, target: Tensor, distance: PerceptualDistance) -> Measurement:
    """How far the change from frame to frame is from the true one: tLP, 0 at best.

    The absolute difference of the perceptual distances between consecutive generated and between
    consecutive true frames (Chu et al. 2020, https://doi.org/10.1145/3386569.3392457, section 5), mean over
    frames. The paper shows it times 100.
    """
    ours, true = (_changes(frames, distance) for frames in (generated, target))
    return Measurement.mean_of((ours - true).abs())


def _changes(frames: Tensor, distance: PerceptualDistance) -> Tensor:
    """Distances between each frame and the next (n - 1,), a few frames at a time."""
    starts = range(0, len(frames) - 1, FRAMES_PER_BATCH)
    return torch.cat([distance.between_neighbours(frames[at : at + FRAMES_PER_BATCH + 1]) for at in starts])
