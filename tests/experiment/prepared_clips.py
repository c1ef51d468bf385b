"""Clips that are ready for adaptation, made from raw frames by the stages that make them."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from lora_tta.cache.store import ContentCache
from lora_tta.config import Params
from lora_tta.data.preprocess import preprocess
from lora_tta.experiment.encoding import encode_clip
from lora_tta.experiment.lazy_model import LazyModel
from lora_tta.records.clips import Clip, read_manifest


def prepare_clips(params: Params, folder: Path, videos: Sequence[np.ndarray]) -> tuple[Params, list[Clip]]:
    """Raw frames, (F, H, W, 3) each, through the stages preprocess and encode.

    Returns:
        The settings with ``data.root`` and ``cache.path`` below ``folder``, and the clips; they lie in
        ``folder / "clips"``, their conditionings in ``folder / "encoded"``.
    """
    for number, frames in enumerate(videos, start=1):
        write_raw_clip(folder / "raw" / "Sliding" / f"v_Sliding_g01_c{number:02d}.avi", frames)
    values = params.model_dump()
    values["data"]["root"], values["cache"]["path"] = folder / "raw", folder / "cache"
    params = Params.model_validate(values)
    preprocess(params.data, params.preprocess, folder / "clips", workers=1)
    clips = read_manifest(folder / "clips")
    cache = ContentCache(params.cache.path, params.cache.max_bytes)
    model = LazyModel(params.model, params.cache.path, for_encoding=True)
    (folder / "encoded").mkdir()
    for clip in clips:
        encode_clip(model, cache, folder / "clips", clip, folder / "encoded" / f"{clip.clip_id}.safetensors")
    return params, clips


def write_raw_clip(path: Path, frames: np.ndarray) -> None:
    """A lossless file at 24 fps, so that resampling keeps every frame in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
