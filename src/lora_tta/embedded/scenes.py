"""Rendered training clips: scenes are drawn by loader workers and rendered where the model trains."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lora_tta.embedded import footage, layered_scene
from lora_tta.embedded.footage import draw_footage
from lora_tta.embedded.footage_rendering import PhotographBank, render_footage
from lora_tta.embedded.layered_scene import Scene, render_scenes
from lora_tta.embedded.recipe import FOOTAGE_CAPTIONS, Video
from lora_tta.embedded.synthetic import TRAINING_CLASSES, draw_scene

EMPTY_PROMPT = len(TRAINING_CLASSES)  # row of the empty prompt: after the classes, before footage's captions


class SceneDataset(Dataset):
    """Scenes, one seed each, counting up from ``first_seed``: patterns, whose classes take turns, or footage.

    A batch is of one kind. With ``photographs`` (how many the bank has), a share of the batches is footage,
    and a clip of it has a caption by chance, from which nothing can be learned.
    """

    def __init__(
        self,
        video: Video,
        first_seed: int,
        length: int,
        batch_size: int,
        classes: tuple[str, ...] = TRAINING_CLASSES,
        photographs: int = 0,
    ) -> None:
        self.video, self.first_seed, self.length, self.batch_size = video, first_seed, length, batch_size
        self.classes, self.photographs = classes, photographs

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        seed, video = self.first_seed + index, self.video
        kind = np.random.default_rng((seed - index % self.batch_size, 2))
        if self.photographs and kind.random() < video.footage_share:
            scene = draw_footage(seed, video.num_frames, video.fps, self.photographs)
            caption = np.random.default_rng((seed, 3)).integers(len(FOOTAGE_CAPTIONS))
            return {**scene, "prompt": torch.tensor(EMPTY_PROMPT + 1 + int(caption))}
        class_index = seed % len(self.classes)
        scene = draw_scene(self.classes[class_index], seed, video.num_frames, video.fps)
        return {**scene, "prompt": torch.tensor(class_index)}


def excerpt(scenes: Scene, clips: int, start: int, length: int) -> Scene:
    """The first ``clips`` scenes of a batch, ``length`` frames from ``start`` on."""
    is_footage = "photograph" in scenes
    per_frame = footage.MOTION_FIELDS if is_footage else layered_scene.MOTION_FIELDS
    part = {}
    for name, value in scenes.items():
        if is_footage and name in footage.PICTURE_FIELDS:
            part[name] = value[:clips, start : start + length]
        else:
            part[name] = value[:clips, :, start : start + length] if name in per_frame else value[:clips]
    return part


def render_videos(scenes: Scene, video: Video, bank: PhotographBank | None = None) -> Tensor:
    """Render to what the VAE takes: (batch, 3, frames, height, width) in [-1, 1].

    Where footage cuts to another shot, the shot before is that of the clip before in the batch.
    """
    if bank is not None and "photograph" in scenes:
        videos = render_footage(scenes, bank, video.height, video.width)
        videos = torch.lerp(videos, videos.roll(1, dims=0), scenes["previous_shot"][:, :, None, None, None])
        return videos.transpose(1, 2) * 2 - 1
    return render_scenes(scenes, video.height, video.width).transpose(1, 2) * 2 - 1


def scene_batches(
    video: Video,
    batch_size: int,
    first_seed: int,
    num_batches: int,
    device: torch.device,
    num_workers: int = 0,
    classes: tuple[str, ...] = TRAINING_CLASSES,
    photographs: int = 0,
) -> Iterator[tuple[Scene, Tensor]]:
    """Yield batches of scenes on the device, and the rows of their prompts (batch,) on the CPU."""
    dataset = SceneDataset(video, first_seed, num_batches * batch_size, batch_size, classes, photographs)
    for scenes in DataLoader(dataset, batch_size, num_workers=num_workers, pin_memory=device.type == "cuda"):
        prompts = scenes.pop("prompt")
        yield {name: value.to(device, non_blocking=True) for name, value in scenes.items()}, prompts
