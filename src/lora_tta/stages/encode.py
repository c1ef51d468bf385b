"""Stage ``encode``: latents of frames 1-33 and text embeddings of every clip, once for every trial."""

import sys

import torch
from tqdm import tqdm

from lora_tta.adaptation.conditioning import encode_conditioning
from lora_tta.config import load_params
from lora_tta.data.clips import read_manifest
from lora_tta.data.video import read_conditioning_frames
from lora_tta.errors import report_user_errors
from lora_tta.experiment.runner import resolve_device
from lora_tta.models.loading import load_pipeline
from lora_tta.stages.paths import CLIPS, ENCODED


def main() -> None:
    """Write ``outputs/encoded/<clip_id>.safetensors``."""
    model = load_params().model
    clips = read_manifest(CLIPS)
    ENCODED.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(model.path, resolve_device(model.device), getattr(torch, model.dtype))
    for clip in tqdm(clips, desc="encode", unit="clip"):
        frames = read_conditioning_frames(CLIPS, clip)
        encode_conditioning(pipeline, frames, clip.caption).save(ENCODED / f"{clip.clip_id}.safetensors")


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
