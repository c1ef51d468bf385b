"""Rendered training clips: scenes are drawn by loader workers and rendered where the model trains."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lora_tta.embedded.layered_scene import MOTION_FIELDS, Scene, render_scenes
from lora_tta.embedded.recipe import Video
from lora_tta.embedded.synthetic import TRAINING_CLASSES, draw_scene


class SceneDataset(Dataset):
    """Scenes of the given classes, one seed each, counting up from ``first_seed``; classes take turns."""

    def __init__(
        self, video: Video, first_seed: int, length: int, classes: tuple[str, ...] = TRAINING_CLASSES
    ) -> None:
        self.video, self.first_seed, self.length, self.classes = video, first_seed, length, classes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        seed = self.first_seed + index
        class_index = seed % len(self.classes)
        scene = draw_scene(self.classes[class_index], seed, self.video.num_frames, self.video.fps)
        return {**scene, "class_index": torch.tensor(class_index)}


def excerpt(scenes: Scene, clips: int, start: int, length: int) -> Scene:
    """The first ``clips`` scenes of a batch, ``length`` frames from ``start`` on."""
    return {
        name: value[:clips, :, start : start + length] if name in MOTION_FIELDS else value[:clips]
        for name, value in scenes.items()
    }


def render_videos(scenes: Scene, video: Video) -> Tensor:
    """Render to what the VAE takes: (batch, 3, frames, height, width) in [-1, 1]."""
    return render_scenes(scenes, video.height, video.width).transpose(1, 2) * 2 - 1


def scene_batches(
    video: Video,
    batch_size: int,
    first_seed: int,
    num_batches: int,
    device: torch.device,
    num_workers: int = 0,
    classes: tuple[str, ...] = TRAINING_CLASSES,
) -> Iterator[tuple[Scene, Tensor]]:
    """Yield batches of scenes on the device and their class indices (batch,) on the CPU."""
    dataset = SceneDataset(video, first_seed, num_batches * batch_size, classes)
    for scenes in DataLoader(dataset, batch_size, num_workers=num_workers, pin_memory=device.type == "cuda"):
        class_index = scenes.pop("class_index")
        yield {name: value.to(device, non_blocking=True) for name, value in scenes.items()}, class_index
