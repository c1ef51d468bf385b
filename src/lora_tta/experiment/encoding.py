"""What clips show the model, encoded once: by every stage, experiment and process that shares the cache."""

import hashlib
import shutil
from pathlib import Path

from lora_tta.backbones.conditioning import encode_conditioning
from lora_tta.cache.store import ContentCache
from lora_tta.data.video import read_conditioning_frames
from lora_tta.experiment.lazy_model import LazyModel
from lora_tta.records.clips import Clip

CONDITIONING_NAME = "conditioning.safetensors"


def encode_clip(model: LazyModel, cache: ContentCache, clips: Path, clip: Clip, output: Path) -> None:
    """Write the conditioning of a clip to ``output``, from the cache where it holds it.

    It is known by its decoded frames 1-33 and its caption, so frames 34-65 do not matter.

    Args:
        clips: folder of the preprocessed clips.

    Raises:
        UserError: the clip or the model cannot be read.
    """
    frames = read_conditioning_frames(clips, clip)
    key = {
        **model.environment,
        "frames": hashlib.sha256(frames).hexdigest(),
        "size": frames.shape[1:3],
        "caption": clip.caption,
    }
    entry = cache.fetch(
        "conditioning",
        key,
        lambda folder: encode_conditioning(model.pipeline, frames, clip.caption).save(
            folder / CONDITIONING_NAME
        ),
    )
    shutil.copyfile(entry / CONDITIONING_NAME, output)
