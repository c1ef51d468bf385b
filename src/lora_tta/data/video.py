"""Reading and writing video files.

Written files are H.264 in which **the bits of a frame depend on that frame and earlier ones alone**: constant
quantiser, no B-frames, no lookahead, no scene-cut detection, no weighted prediction, one thread, and a closed
group of pictures every 33 frames. The frames a model may condition on therefore cannot carry any trace of
those it has to predict, which ordinary rate control would leave in them.
"""

from collections.abc import Iterable
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc, Interpolation

from lora_tta.data.scaling import BT709, RGBConverter
from lora_tta.errors import UserError
from lora_tta.files import atomic, file_sha256
from lora_tta.records.clips import MANIFEST_NAME, Clip

# At least 44 dB for every frame of the real footage tried at 192x336; continuations are near 16 dB.
QUANTISER = 10
GROUP_OF_PICTURES = 33

_X264_PARAMS = ":".join(
    [
        f"keyint={GROUP_OF_PICTURES}",
        f"min-keyint={GROUP_OF_PICTURES}",
        "open-gop=0",
        "scenecut=0",
        "bframes=0",
        "rc-lookahead=0",
        "sync-lookahead=0",
        "mbtree=0",
        "weightp=0",
        "psy=0",
    ]
)
_RGB_CONVERSION = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


def read_video(path: Path, num_frames: int | None = None) -> np.ndarray:
    """Decode a video to RGB.

    Args:
        path: the file.
        num_frames: decode the first ``num_frames`` only; ``None`` decodes all.

    Returns:
        uint8 array (T, H, W, 3).

    Raises:
        UserError: the file is missing, cannot be decoded or has fewer frames than asked for.
    """
    frames = []
    try:
        with av.open(str(path)) as container:
            for frame in islice(container.decode(video=0), num_frames):
                frames.append(frame.to_ndarray(format="rgb24", interpolation=_RGB_CONVERSION, threads=1))
    except FileNotFoundError:
        raise UserError(f"{path} not found: run the stage that writes it") from None
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"{path} cannot be decoded ({error}): write it again") from None
    if not frames or (num_frames is not None and len(frames) < num_frames):
        raise UserError(f"{path} has {len(frames)} frames, {num_frames or 1} are needed: write it again")
    return np.stack(frames)


def read_clip_frames(folder: Path, clip: Clip) -> np.ndarray:
    """All frames of a preprocessed clip: uint8 (F, H, W, 3). Ground truth included: for metrics only."""
    return read_video(_checked_file(folder, clip), clip.num_frames)


def read_conditioning_frames(folder: Path, clip: Clip) -> np.ndarray:
    """The frames the model may see: uint8 (F, H, W, 3). The later ones are not decoded."""
    return read_video(_checked_file(folder, clip), clip.conditioning_frames)


def _checked_file(folder: Path, clip: Clip) -> Path:
    """The file of a clip, which has to be the one that was preprocessed: results go by its hash."""
    path = folder / clip.file_name
    if path.exists() and file_sha256(path) != clip.sha256:
        raise UserError(
            f"{path} is not the clip of {MANIFEST_NAME} (its SHA-256 is another): run dvc checkout or "
            "preprocess again"
        )
    return path


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """Write RGB frames as an H.264 mp4 that browsers play, atomically.

    Args:
        path: the file, ending in ``.mp4``; its folder must exist.
        frames: uint8 array (T, H, W, 3), height and width even.
        fps: frames per second.
    """
    num_frames, height, width, channels = frames.shape
    if frames.dtype != np.uint8 or channels != 3 or not num_frames or height % 2 or width % 2:
        raise ValueError(f"frames must be uint8 (T, H, W, 3) of even size, not {frames.dtype} {frames.shape}")
    convert = RGBConverter(height, width)
    yuv_frames = (convert(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))) for frame in frames)
    encode_h264(path, yuv_frames, fps, height, width, BT709)


def encode_h264(
    path: Path, frames: Iterable[av.VideoFrame], fps: int, height: int, width: int, colorspace: int
) -> None:
    """Encode limited-range yuv420p frames of the given size, causally (see the module), atomically.

    ``colorspace`` (``BT709`` or ``BT601``) is the matrix the frames already are in; it is written into the
    file. Time stamps and picture types of ``frames`` are overwritten: frame k is shown at k / fps.
    """
    with (
        atomic(path) as partial,
        av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {
            "preset": "ultrafast",
            "qp": str(QUANTISER),
            "x264-params": _X264_PARAMS,
        }
        codec = stream.codec_context
        codec.thread_count = 1
        codec.color_range = ColorRange.MPEG
        codec.colorspace = colorspace
        codec.color_primaries = ColorPrimaries.BT709 if colorspace == BT709 else ColorPrimaries.SMPTE170M
        codec.color_trc = ColorTrc.BT709 if colorspace == BT709 else ColorTrc.SMPTE170M
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, Fraction(1, fps)
            # A decoded frame keeps the type it had in its source, which x264 would obey.
            frame.pict_type = av.video.frame.PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
