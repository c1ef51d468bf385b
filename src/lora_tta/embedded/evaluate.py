"""Measure a trained pipeline on clips it has never seen.

``python -m lora_tta.embedded.evaluate --model DIR``

The continuation is compared with repeating the last frame it was given, in PSNR and SSIM.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from tqdm import tqdm

from lora_tta.data.ucf101 import caption_of
from lora_tta.embedded.recipe import VALIDATION_SEED, Video
from lora_tta.embedded.synthetic import HELD_OUT_CLASSES, TRAINING_CLASSES, render_clip
from lora_tta.models.loading import load_pipeline
from lora_tta.models.pipeline import OpenSoraContinuationPipeline
from lora_tta.models.vae import decode_latents, encode_video


@dataclass
class Measurements:
    """Values per clip, in the order of the clips."""

    classes: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of one continuation, from frames to frames
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, what: str, frames: Tensor, target: Tensor) -> None:
        """Add PSNR and SSIM of frames (F, 3, H, W) in [0, 1]."""
        psnr = peak_signal_noise_ratio(frames, target, data_range=1.0)
        ssim = structural_similarity_index_measure(frames, target, data_range=1.0)
        self.values.setdefault(f"{what}_psnr", []).append(psnr.item())
        self.values.setdefault(f"{what}_ssim", []).append(ssim.item())

    def means(self) -> dict[str, float]:
        """Mean of each value over the clips."""
        return {name: sum(values) / len(values) for name, values in self.values.items()}

    def by_class(self) -> dict[str, dict[str, float]]:
        """Mean of each value over the clips of each class."""
        table = {}
        for name in dict.fromkeys(self.classes):
            rows = [row for row, other in enumerate(self.classes) if other == name]
            table[name] = {what: sum(v[row] for row in rows) / len(rows) for what, v in self.values.items()}
        return table


def evaluate_pipeline(
    pipeline: OpenSoraContinuationPipeline,
    classes: tuple[str, ...],
    clips: int,
    num_inference_steps: int,
    video: Video | None = None,
) -> Measurements:
    """Continue fresh clips of the given classes, which take turns; guidance is off.

    Returns:
        PSNR and SSIM of the ``model``, of ``repeat``ing the last known frame, and of the ``vae`` on whole
        clips.
    """
    video = video or Video()
    known = video.conditioning_frames
    pipeline.set_progress_bar_config(disable=True)
    measured = Measurements()
    for index in tqdm(range(clips), desc="continuing clips"):
        class_name, seed = classes[index % len(classes)], VALIDATION_SEED + index
        clip = render_clip(class_name, seed, video.num_frames, video.height, video.width, video.fps)
        start = time.perf_counter()
        generated = pipeline(
            prompt=caption_of(class_name),
            frames=clip[:known],
            num_frames=video.num_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale=1.0,
            image_guidance_scale=1.0,
            generator=torch.Generator().manual_seed(index),
            output_type="pt",
        ).frames[0]
        measured.seconds.append(time.perf_counter() - start)
        measured.classes.append(class_name)
        measured.add("model", generated[known:].cpu(), clip[known:])
        measured.add("repeat", clip[known - 1 : known].expand_as(clip[known:]), clip[known:])
        videos = clip.transpose(0, 1)[None] * 2 - 1
        decoded = decode_latents(pipeline.vae, encode_video(pipeline.vae, videos))[0].transpose(0, 1)
        measured.add("vae", (decoded.cpu() / 2 + 0.5).clamp(0, 1), clip)
    return measured


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="pipeline folder")
    parser.add_argument(
        "--clips", type=int, default=50, help="clips of training classes, and of held-out ones"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[8], help="numbers of sampling steps to try")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    pipeline = load_pipeline(arguments.model, arguments.device, torch.float32)
    results = []
    for steps in arguments.steps:
        for title, classes in (("training", TRAINING_CLASSES), ("held-out", HELD_OUT_CLASSES)):
            measured = evaluate_pipeline(pipeline, classes, arguments.clips, steps)
            means = measured.means()
            results.append({"steps": steps, "classes": title, "clips": arguments.clips, **means})
            print(f"{steps} steps, {arguments.clips} clips of {title} classes:")
            print("  " + ", ".join(f"{name} {value:.4g}" for name, value in means.items()))
            for name, row in measured.by_class().items():
                print(f"  {name}: " + ", ".join(f"{what} {value:.4g}" for what, value in row.items()))
            print(f"  {sorted(measured.seconds)[len(measured.seconds) // 2]:.2f} s per continuation (median)")
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
