"""A few frames of a clip as one picture, for an image grid that compares trials."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Shares of the generated frames after which one is shown.
SHARES = (1 / 8, 3 / 8, 5 / 8, 1)
MIN_CELL_WIDTH = 168
LABEL_WIDTH = 104
LABEL_HEIGHT = 24
GAP = 4
FONT_SIZE = 13
BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)
SEEN_INK = (130, 130, 130)


def frame_strip(
    target: np.ndarray,
    baseline: np.ndarray | None,
    generated: np.ndarray,
    conditioning_frames: int,
    frames: Sequence[int] | None = None,
) -> np.ndarray:
    """Rows ground truth, baseline (if given) and adapted; columns the chosen frames.

    Small frames are enlarged by a whole factor. Labels of frames that the model saw are grey.

    Args:
        target: (F, height, width, 3) RGB uint8, the whole clip.
        baseline: the continuation without adaptation, of the same shape, or None.
        generated: the adapted continuation, of the same shape.
        conditioning_frames: that the model saw.
        frames: frame numbers, counted from 1; None: the last one that the model saw, and some others.

    Returns:
        (strip height, strip width, 3) RGB uint8.

    Raises:
        ValueError: shapes differ, or a frame number is not in the clip.
    """
    if frames is None:
        num_generated = len(target) - conditioning_frames
        frames = [conditioning_frames + math.ceil(share * num_generated) for share in (0, *SHARES)]
    rows = {"ground truth": target, "baseline": baseline, "generated": generated}
    rows = {name: video for name, video in rows.items() if video is not None}
    if {video.shape for video in rows.values()} != {target.shape}:
        raise ValueError(f"videos differ in shape: {[video.shape for video in rows.values()]}")
    if not all(1 <= frame <= len(target) for frame in frames):
        raise ValueError(f"frames {tuple(frames)} are not all in a clip of {len(target)} frames")
    factor = -(-MIN_CELL_WIDTH // target.shape[2])
    height, width = (factor * size for size in target.shape[1:3])
    strip = Image.new(
        "RGB",
        (LABEL_WIDTH + len(frames) * (width + GAP), LABEL_HEIGHT + len(rows) * (height + GAP)),
        BACKGROUND,
    )
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(FONT_SIZE)
    for column, frame in enumerate(frames):
        left = LABEL_WIDTH + column * (width + GAP)
        ink = SEEN_INK if frame <= conditioning_frames else INK
        draw.text((left + width / 2, LABEL_HEIGHT / 2), f"frame {frame}", ink, font, anchor="mm")
        for row, video in enumerate(rows.values()):
            cell = Image.fromarray(video[frame - 1]).resize((width, height), Image.Resampling.BICUBIC)
            strip.paste(cell, (left, LABEL_HEIGHT + row * (height + GAP)))
    for row, name in enumerate(rows):
        middle = LABEL_HEIGHT + row * (height + GAP) + height / 2
        draw.text((LABEL_WIDTH - 10, middle), name, INK, font, anchor="rm")
    return np.asarray(strip)
