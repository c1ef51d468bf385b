"""Videos whose frames tell their number, orientation and colours, as those in ``cases`` do."""

from pathlib import Path

import numpy as np

from lora_tta.data.transcode import ClipFormat, transcode
from lora_tta.data.ucf101 import Source
from lora_tta.data.video import read_video
from lora_tta.data.windows import Windows

CASES = Path(__file__).parent / "cases"
HEIGHT, WIDTH = 128, 224
RED, GREEN, BLUE, YELLOW = (200, 40, 40), (40, 160, 40), (40, 40, 200), (200, 200, 40)
CORNERS = (RED, GREEN, BLUE, YELLOW)  # top left, top right, bottom left, bottom right


def marked_frames(numbers: range) -> np.ndarray:
    """uint8 (T, 128, 224, 3): eight blocks for the bits of the number, the lowest left, on four colours."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    top, left = slice(0, HEIGHT // 2), slice(0, WIDTH // 2)
    bottom, right = slice(HEIGHT // 2, None), slice(WIDTH // 2, None)
    frame[top, left], frame[top, right], frame[bottom, left], frame[bottom, right] = CORNERS
    frames = np.stack([frame] * len(numbers))
    for number, each in zip(numbers, frames, strict=True):
        for bit in range(8):
            block = slice(bit * WIDTH // 8, (bit + 1) * WIDTH // 8)
            each[HEIGHT // 2 - 16 : HEIGHT // 2 + 16, block] = 235 if number >> bit & 1 else 16
    return frames


def clip_format(height: int, width: int, place: str = "first", known: int = 33, **windows) -> ClipFormat:
    """Clips of 65 frames at 24 fps; one window of each video."""
    windows = {"length": 65, "place": place, "count": 1, "stride": None, "seed": 0} | windows
    return ClipFormat((height, width), 24, known, Windows(**windows))


def read_clip(path: Path, output: Path, window: str = "first") -> np.ndarray:
    """The frames of the clip that preprocessing makes of a file; it has to make one."""
    output.mkdir(exist_ok=True)
    source = Source(path, "marked", path.stem)
    clips = transcode(source, path.parent, output, clip_format(HEIGHT, WIDTH, window))
    assert isinstance(clips, list), clips
    (clip,) = clips
    return read_video(output / clip.file_name)


def numbers(frames: np.ndarray) -> list[int]:
    """The number that every frame shows."""
    bands = frames[:, HEIGHT // 2 - 4 : HEIGHT // 2 + 4].mean(axis=(1, 3))
    bits = bands[:, WIDTH // 16 :: WIDTH // 8] > 128
    return (bits @ (1 << np.arange(8))).tolist()


def corners(frames: np.ndarray) -> np.ndarray:
    """Mean colours of the corners of the first frame, (4, 3)."""
    frame = frames[0].astype(float)
    places = [(slice(8, 24), slice(8, 24)), (slice(8, 24), slice(-24, -8))]
    places += [(slice(-24, -8), columns) for _, columns in places]
    return np.stack([frame[place].mean(axis=(0, 1)) for place in places])
