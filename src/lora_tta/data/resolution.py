"""Frame sizes of Open-Sora v2.0: a pixel budget spread over an aspect ratio."""

import math
from typing import Literal

Resolution = Literal["256px", "768px"]

SIZE_MULTIPLE = 16  # 8x of the VAE times the 2x2 packing of the transformer


def image_size(resolution: Resolution, aspect_ratio: str) -> tuple[int, int]:
    """Height and width, in pixels and multiples of 16, of an aspect ratio at a resolution.

    The area rule of Open-Sora: the longer side is the one the pixel budget (256 x 256 or 768 x 768) gives at
    this aspect ratio, the shorter side what the budget leaves, both rounded down to a multiple of 16.

    Args:
        resolution: ``256px`` or ``768px``.
        aspect_ratio: width to height, such as ``16:9``, ``1:1`` or ``9:16``; whole numbers.

    >>> image_size("256px", "16:9")
    (192, 336)
    """
    pixels = {"256px": 256**2, "768px": 768**2}[resolution]
    across, down = (int(part) for part in aspect_ratio.split(":"))
    # Integer square root: 768px at 16:9 is 1024 exactly, which floating point may miss by one multiple.
    longer = _round_down(math.isqrt(pixels * max(across, down) // min(across, down)))
    shorter = _round_down(pixels // longer)
    return (shorter, longer) if across >= down else (longer, shorter)


def _round_down(length: int) -> int:
    return length // SIZE_MULTIPLE * SIZE_MULTIPLE
