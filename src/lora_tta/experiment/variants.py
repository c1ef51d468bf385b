"""The conditionings of other views of a clip, encoded once for all adaptations that share the cache."""

from dataclasses import asdict
from pathlib import Path

from lora_tta.adaptation.augmentation import show, views
from lora_tta.backbones import backbone_module
from lora_tta.backbones.base import Conditioning
from lora_tta.cache.keys import code_version
from lora_tta.cache.store import ContentCache
from lora_tta.data.video import read_conditioning_frames
from lora_tta.experiment.clip_work import ClipWork
from lora_tta.experiment.encoding import CONDITIONING_NAME, READING
from lora_tta.experiment.lazy_model import LazyModel


def encode_views(
    model: LazyModel,
    cache: ContentCache,
    clips_folder: Path,
    work: ClipWork,
    conditioning: Conditioning,
) -> list[Conditioning]:
    """The conditionings of the views that the adaptation asks for, on the model's device.

    Only the conditioning frames are read.

    Args:
        model: of the experiment.
        cache: of finished work.
        clips_folder: folder of the preprocessed clips.
        work: on the clip.
        conditioning: of the frames themselves.
    """
    encoded = []
    params = work.adaptation.augmentation if work.adaptation else None
    for view in views(params, work.clip.conditioning_frames) if params else ():
        key = {
            **work.environment,
            "code": code_version(
                "lora_tta.adaptation.augmentation", READING, backbone_module(model.params.backbone)
            ),
            "conditioning": work.conditioning,
            "view": asdict(view),
        }

        def compute(folder: Path, view=view) -> None:
            frames = show(read_conditioning_frames(clips_folder, work.clip), view)
            made = model.backbone.encode_view(conditioning, frames, view.pace).tensors
            # The embeddings of the caption, which are larger than the latents, are the clip's own.
            own = {
                name: tensor for name, tensor in made.items() if tensor is not conditioning.tensors.get(name)
            }
            Conditioning(own).save(folder / CONDITIONING_NAME)

        found = Conditioning.load(cache.fetch("conditioning", key, compute) / CONDITIONING_NAME)
        found = found.to(model.device, model.backbone.dtype)
        encoded.append(Conditioning({**conditioning.tensors, **found.tensors}))
    return encoded
