"""Other views of a clip's known frames, to adapt to: mirrored, turned, cut out, slower and faster."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from lora_tta.config import AugmentationParams


@dataclass(frozen=True)
class View:
    """A way to show frames.

    Attributes:
        mirrored: left and right are exchanged.
        degrees: that the picture is turned by, enlarged so that no border shows.
        share: of width and height that is shown, enlarged to the whole picture.
        pace: 2 leaves every other frame out; 0.5 has the first half of them, and means of neighbours between.
    """

    mirrored: bool = False
    degrees: float = 0.0
    share: float = 1.0
    pace: float = 1.0


def views(params: AugmentationParams, num_frames: int) -> list[View]:
    """The views of so many frames that the settings ask for, beside the frames themselves.

    At double speed less than 9 frames would be less than two latent ones, and are left out.
    """
    return [
        *([View(mirrored=True)] if params.flips else []),
        *(View(degrees=degrees) for degrees in (params.rotation, -params.rotation) if degrees),
        *([View(share=params.crop)] if params.crop < 1 else []),
        *(View(pace=pace) for pace in (0.5, 2.0) if params.speeds and (pace < 1 or num_frames >= 9)),
    ]


def show(frames: np.ndarray, view: View) -> np.ndarray:
    """The frames, uint8 (4 k + 1, H, W, 3), in a view, which has 4 j + 1 of them too."""
    if view.pace == 2:
        frames = frames[::2]
        frames = frames[: (len(frames) - 1) // 4 * 4 + 1]
    elif view.pace == 0.5:
        half = frames[: len(frames) // 2 + 1].astype(np.float32)
        slower = np.empty((2 * len(half) - 1, *half.shape[1:]), np.float32)
        slower[::2], slower[1::2] = half, (half[:-1] + half[1:]) / 2
        frames = slower.round().astype(np.uint8)
    if view.mirrored:
        frames = frames[:, :, ::-1]
    if view.degrees or view.share < 1:
        frames = _mapped(frames, view)
    return np.ascontiguousarray(frames)


def _mapped(frames: np.ndarray, view: View) -> np.ndarray:
    """Turned about the centre and enlarged, bilinearly."""
    height, width = frames.shape[1:3]
    angle = math.radians(view.degrees)
    aspect = width / height
    # The largest picture of the same shape that lies within the turned one.
    longer = max(aspect, 1 / aspect)
    shown = view.share / (math.cos(angle) + longer * abs(math.sin(angle)))
    cosine, sine = shown * math.cos(angle), shown * math.sin(angle)
    # Positions run from -1 to 1 along either side, whatever its length.
    matrix = torch.tensor([[cosine, -sine / aspect, 0], [sine * aspect, cosine, 0]], dtype=torch.float32)
    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    grid = F.affine_grid(matrix.expand(len(pictures), 2, 3), list(pictures.shape), align_corners=False)
    turned = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    return turned.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
