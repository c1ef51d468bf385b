"""Measure a trained pipeline on clips it has never seen.

``python -m lora_tta.embedded.evaluate --model DIR [--videos FOLDER]``

The continuation is compared with repeating the last frame it was given, in PSNR and SSIM: on fresh rendered
clips of classes that training draws from and of others, and on all windows of the videos in a folder.
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from tqdm import tqdm

from lora_tta.config import DataParams, PreprocessParams
from lora_tta.data.preprocess import preprocess
from lora_tta.data.ucf101 import caption_of
from lora_tta.data.video import read_clip_frames
from lora_tta.embedded.recipe import VALIDATION_SEED, Video
from lora_tta.embedded.synthetic import HELD_OUT_CLASSES, TRAINING_CLASSES, render_clip
from lora_tta.models.loading import load_pipeline
from lora_tta.models.packing import head_mode
from lora_tta.models.pipeline import OpenSoraContinuationPipeline
from lora_tta.models.vae import decode_latents, encode_video
from lora_tta.records.clips import read_manifest


@dataclass(frozen=True)
class TestClip:
    """A clip that training never saw: ``frames`` are (F, 3, H, W) in [0, 1]."""

    class_name: str
    caption: str
    frames: Tensor


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


def rendered_clips(classes: tuple[str, ...], count: int, video: Video) -> Iterator[TestClip]:
    """Fresh clips of the classes, which take turns."""
    for index in range(count):
        class_name = classes[index % len(classes)]
        frames = render_clip(
            class_name, VALIDATION_SEED + index, video.num_frames, video.height, video.width, video.fps
        )
        yield TestClip(class_name, caption_of(class_name), frames)


def clips_of_videos(folder: Path, video: Video) -> list[TestClip]:
    """All windows of the videos in a folder, one after the other, made as the pipeline makes its clips.

    Raises:
        UserError: no video gives a window.
    """
    params = PreprocessParams(
        size=None,
        height=video.height,
        width=video.width,
        fps=round(video.fps),
        conditioning_frames=video.conditioning_frames,
        generated_frames=video.num_frames - video.conditioning_frames,
        window="first",
        windows_per_video=10_000,
        stride=None,
        num_clips=None,
        search_clips=1,
        seed=0,
    )
    data = DataParams(root=folder, split_list=None, search_list=None, caption_suffix="")
    with TemporaryDirectory() as name:
        preprocess(data, params, Path(name), workers=1)
        return [
            TestClip(
                clip.class_name,
                clip.caption,
                torch.from_numpy(read_clip_frames(Path(name), clip)).permute(0, 3, 1, 2) / 255,
            )
            for clip in read_manifest(Path(name))
        ]


def evaluate_pipeline(
    pipeline: OpenSoraContinuationPipeline,
    clips: Iterable[TestClip],
    num_inference_steps: int,
    known: int,
    guidance_scale: float = 1.0,
    image_guidance_scale: float = 1.0,
) -> Measurements:
    """Continue clips whose first ``known`` frames are given, 0 or 4 k + 1; with 1 it is image to video.

    Returns:
        PSNR and SSIM of the ``model``, of ``repeat``ing the last known frame, and of the ``vae`` on whole
        clips.
    """
    pipeline.set_progress_bar_config(disable=True)
    measured = Measurements()
    for index, clip in enumerate(tqdm(clips, desc="continuing clips")):
        frames, hidden = clip.frames, clip.frames[known:]
        start = time.perf_counter()
        generated = pipeline(
            prompt=clip.caption,
            mode=head_mode(-(-known // 4)) if known else "t2v",
            frames=frames[:known] if known else None,
            height=frames.shape[-2],
            width=frames.shape[-1],
            num_frames=len(frames),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
            generator=torch.Generator().manual_seed(index),
            output_type="pt",
        ).frames[0]
        measured.seconds.append(time.perf_counter() - start)
        measured.classes.append(clip.class_name)
        measured.add("model", generated[known:].cpu(), hidden)
        if known:
            measured.add("repeat", frames[known - 1 : known].expand_as(hidden), hidden)
        videos = frames.transpose(0, 1)[None] * 2 - 1
        decoded = decode_latents(pipeline.vae, encode_video(pipeline.vae, videos))[0].transpose(0, 1)
        measured.add("vae", (decoded.cpu() / 2 + 0.5).clamp(0, 1), frames)
    return measured


def _row(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="pipeline folder")
    parser.add_argument("--clips", type=int, default=50, help="rendered ones of each kind; 0 for none")
    parser.add_argument("--videos", type=Path, help="folder of videos, all of whose windows are continued")
    parser.add_argument("--steps", type=int, nargs="+", default=[8], help="numbers of sampling steps to try")
    parser.add_argument("--known", type=int, nargs="+", default=[33], help="numbers of known frames to try")
    parser.add_argument("--guidance", type=float, nargs=2, default=(1.0, 1.0), metavar=("TEXT", "IMAGE"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    video = Video()
    kinds: dict[str, list[TestClip]] = {}
    if arguments.clips:
        kinds["clips of classes trained on"] = list(rendered_clips(TRAINING_CLASSES, arguments.clips, video))
        kinds["clips of other classes"] = list(rendered_clips(HELD_OUT_CLASSES, arguments.clips, video))
    if arguments.videos:
        kinds[f"windows of {arguments.videos}"] = clips_of_videos(arguments.videos, video)
    pipeline = load_pipeline(arguments.model, arguments.device, torch.float32)
    results = []
    for (kind, clips), steps, known in product(kinds.items(), arguments.steps, arguments.known):
        measured = evaluate_pipeline(pipeline, clips, steps, known, *arguments.guidance)
        setting = {"clips": kind, "number": len(clips), "steps": steps, "known": known}
        results.append(setting | {"guidance": arguments.guidance, **measured.means()})
        print(
            f"{kind}: {len(clips)} clips, {steps} steps, {known} known frames, guidance {arguments.guidance}"
        )
        print(f"  mean: {_row(measured.means())}")
        for name, row in measured.by_class().items():
            print(f"  {name}: {_row(row)}")
        seconds = sorted(measured.seconds)[len(measured.seconds) // 2]
        print(f"  {seconds:.2f} s per continuation (median)", flush=True)
        if arguments.output:
            arguments.output.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
