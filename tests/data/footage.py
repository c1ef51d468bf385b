"""Raw videos for the tests: three real files and what is made on the spot."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CLIPS = Path(__file__).parent / "clips"


def moving_frames(
    num_frames: int, height: int = 96, width: int = 128, seed: int | tuple[int, ...] = 0
) -> np.ndarray:
    """Smooth coloured waves that move and brighten, so that no two frames are alike: (T, H, W, 3) uint8."""
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    y, x = np.mgrid[0:height, 0:width]
    frames = [
        np.stack([90 + index % 100 + 40 * np.sin((x + 2 * index) / 9 + y / 7 + p) for p in phase], axis=-1)
        for index in range(num_frames)
    ]
    return np.stack(frames).round().astype(np.uint8)


def encode(
    path: Path,
    frames: np.ndarray,
    fps: Fraction | int = 24,
    codec: str = "mpeg4",
    times: list[Fraction] | None = None,
    frame_numbers: list[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a raw video as a camera or data set would.

    ``times`` in seconds replace the constant rate; ``frame_numbers`` keep it, but leave frames out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    options = options or {"flags": "+qscale", "global_quality": str(118 * 2)}
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        time_base = Fraction(1, 1000) if times else 1 / Fraction(fps)
        stream.codec_context.time_base = time_base
        for index, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array)
            frame.time_base = time_base
            frame.pts = (
                round(times[index] / time_base) if times else (frame_numbers or range(len(frames)))[index]
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_ucf_folder(root: Path, classes: dict[str, int]) -> Path:
    """A folder in UCF-101's layout and format: {"Archery": 3} is three unlike 80-frame clips of a class."""
    for index, (class_name, num_clips) in enumerate(classes.items()):
        for number in range(1, num_clips + 1):
            path = root / class_name / f"v_{class_name}_g{number:02}_c01.avi"
            encode(path, moving_frames(80, 48, 64, seed=(number, index)), fps=25)
    return root
