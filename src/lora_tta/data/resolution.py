"""Frame sizes of Open-Sora v2.0: a budget of pixels spread over the published ratio nearest to a video's."""

import math
from fractions import Fraction
from functools import cache
from typing import Literal

Resolution = Literal["256px", "768px"]

SIZE_MULTIPLE = 16  # 8x of the VAE times the 2x2 packing of the transformer
# Width to height, as published (opensora/datasets/aspect.py of https://github.com/hpcaitech/Open-Sora).
_RATIOS = ("2.39:1", "2:1", "16:9", "1.85:1", "9:16", "5:8", "3:2", "4:3", "1:1")


@cache
def sizes(resolution: Resolution) -> dict[Fraction, tuple[int, int]]:
    """Height and width in pixels, by height / width: the table of the published inference.

    The width is what the budget of 256 x 256 or 768 x 768 pixels gives at this ratio, the height what the
    budget leaves, both rounded down to multiples of 16. The table holds every size lying and standing.
    """
    pixels = {"256px": 256**2, "768px": 768**2}[resolution]
    table = {}
    for ratio in _RATIOS:
        across, down = map(Fraction, ratio.split(":"))
        # In integers: 768px at 16:9 is 1024 exactly, which floating point may miss by one multiple.
        width = _round_down(math.isqrt(int(pixels * across / down)))
        height = _round_down(pixels // width)
        table |= {down / across: (height, width), across / down: (width, height)}
    return table


def size_for(resolution: Resolution, shape: Fraction) -> tuple[int, int]:
    """Height and width of the published ratio that is nearest to a shape, height / width.

    >>> size_for("256px", Fraction(1080, 1920))
    (192, 336)
    """
    table = sizes(resolution)
    return table[min(table, key=lambda ratio: abs(ratio - shape))]


def _round_down(length: int) -> int:
    return length // SIZE_MULTIPLE * SIZE_MULTIPLE
