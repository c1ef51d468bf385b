"""The conditioning of a clip, encoded once for every stage, experiment and process that shares the cache."""

import hashlib
import shutil
from pathlib import Path

from lora_tta.backbones import backbone_module
from lora_tta.cache.keys import code_version
from lora_tta.cache.store import ContentCache
from lora_tta.data.video import read_conditioning_frames
from lora_tta.experiment.lazy_model import LazyModel
from lora_tta.files import atomic
from lora_tta.records.clips import Clip

CONDITIONING_NAME = "conditioning.safetensors"
# The module that reads the frames of clips: all work depends on it.
READING = "lora_tta.data.video"


def encode_clip(model: LazyModel, cache: ContentCache, clips_folder: Path, clip: Clip, output: Path) -> None:
    """Write the conditioning of a clip to ``output``, from the cache where it holds it.

    The key holds the decoded conditioning frames and the caption, so later frames do not matter.

    Args:
        model: loaded ``for_encoding``.
        cache: of finished work.
        clips_folder: folder of the preprocessed clips.
        clip: one of them.
        output: a safetensors file.

    Raises:
        UserError: the clip or the model cannot be read.
    """
    frames = read_conditioning_frames(clips_folder, clip)
    key = {
        **model.environment,
        "code": code_version(READING, backbone_module(model.params.backbone)),
        "frames": hashlib.sha256(frames.tobytes()).hexdigest(),
        "size": frames.shape[1:3],
        "caption": clip.caption,
    }

    def compute(folder: Path) -> None:
        model.backbone.encode(frames, clip.caption).save(folder / CONDITIONING_NAME)

    with cache.leasing(), atomic(output) as partial:
        shutil.copyfile(cache.fetch("conditioning", key, compute) / CONDITIONING_NAME, partial)
