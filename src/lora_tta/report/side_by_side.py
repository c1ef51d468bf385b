"""Videos beside each other, each under its name."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lora_tta.report.filmstrip import (
    BACKGROUND,
    FONT_SIZE,
    GAP,
    INK,
    LABEL_HEIGHT,
    MIN_CELL_WIDTH,
    SEEN_INK,
)


def side_by_side(videos: Mapping[str, np.ndarray], num_known: int) -> np.ndarray:
    """One video of several; small frames are enlarged by a whole factor.

    Args:
        videos: (T, H, W, 3) RGB uint8 of one shape, sides even, by their names.
        num_known: names of the frames before are grey.

    Returns:
        (T, height, width, 3) RGB uint8, sides even.

    Raises:
        ValueError: shapes differ.
    """
    shapes = {video.shape for video in videos.values()}
    if len(shapes) != 1:
        raise ValueError(f"videos differ in shape: {sorted(shapes)}")
    [(num_frames, height, width, _)] = shapes
    factor = -(-MIN_CELL_WIDTH // width)
    height, width = factor * height, factor * width
    result = np.full((num_frames, LABEL_HEIGHT + height, len(videos) * (width + GAP) - GAP, 3), 255, np.uint8)
    for column, video in enumerate(videos.values()):
        left = column * (width + GAP)
        result[:, LABEL_HEIGHT:, left : left + width] = video.repeat(factor, axis=1).repeat(factor, axis=2)
    for part, ink in ((slice(0, num_known), SEEN_INK), (slice(num_known, None), INK)):
        result[part, :LABEL_HEIGHT] = _labels(list(videos), result.shape[2], width + GAP, ink)
    return result


def _labels(names: list[str], width: int, step: int, ink: tuple[int, int, int]) -> np.ndarray:
    image = Image.new("RGB", (width, LABEL_HEIGHT), BACKGROUND)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    for column, name in enumerate(names):
        draw.text((column * step + GAP, GAP), name, fill=ink, font=font)
    return np.asarray(image)
