"""The embedded data set: rendered patterns, rendered footage, and pieces of real videos.

``python -m lora_tta.embedded.demo_clips --photographs DIR --videos FILE [FILE ...] --output DIR``

docs/embedded_model.md names the real videos and their licences.
"""

import argparse
import json
import shutil
import sys
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import torch

from lora_tta.embedded.footage import draw_footage
from lora_tta.embedded.footage_rendering import PhotographBank, render_footage
from lora_tta.embedded.synthetic import DATASET_SEED, write_avi, write_dataset
from lora_tta.errors import UserError, report_user_errors

# Of the photographs in rendered clips, which go with the repository: what nobody has to be named for.
FREE = ("public domain", "CC0-1.0", "no known copyright restrictions")
FRAMES, HEIGHT, WIDTH, FPS = 100, 240, 320, 25
CLIPS = 2  # of each class
GAP = 30  # frames between two pieces of a video


def write_footage(root: Path, photographs: Path) -> None:
    """Write rendered footage, of the photographs that are free."""
    licences = json.loads((photographs / "photographs.json").read_text())
    with TemporaryDirectory() as name:
        for picture in (row["name"] for row in licences if row["licence"] in FREE):
            shutil.copy(photographs / picture, name)
        bank = PhotographBank(Path(name))
    for index in range(CLIPS):
        scene = draw_footage(DATASET_SEED + index, FRAMES, FPS, len(bank))
        frames = render_footage({key: value[None] for key, value in scene.items()}, bank, HEIGHT, WIDTH)[0]
        # Each shows pictures of its own, so each is a group.
        path = root / "RenderedFootage" / f"v_RenderedFootage_g{index + 1:02d}_c01.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_avi(path, (frames * 255).round().to(torch.uint8).permute(0, 2, 3, 1), FPS)


def write_pieces(root: Path, video: Path) -> None:
    """Write pieces of a video, scaled down to the width of the set; its name is the name of their class.

    Raises:
        UserError: the video has another frame rate than the set, or is too short.
    """
    class_name = "".join(part.capitalize() for part in video.stem.split("_"))
    with av.open(video) as container:
        stream = container.streams.video[0]
        if stream.average_rate != FPS:
            raise UserError(f"{video} has {stream.average_rate} frames a second: convert it to {FPS}")
        height = WIDTH * stream.height // stream.width // 2 * 2
        needed = CLIPS * (FRAMES + GAP) - GAP
        frames = [
            frame.to_ndarray(format="rgb24", width=WIDTH, height=height, interpolation="AREA")
            for frame in islice(container.decode(stream), needed)
        ]
    if len(frames) < needed:
        raise UserError(f"{video} has {len(frames)} frames: take one of {needed} or more")
    for index in range(CLIPS):
        start = index * (FRAMES + GAP)
        path = root / class_name / f"v_{class_name}_g01_c{index + 1:02d}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_avi(path, torch.from_numpy(np.stack(frames[start : start + FRAMES])), FPS)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, required=True, help="of lora_tta.embedded.photographs")
    parser.add_argument("--videos", type=Path, nargs="+", required=True, help="of 25 frames a second")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    write_dataset(arguments.output)
    write_footage(arguments.output, arguments.photographs)
    for video in arguments.videos:
        write_pieces(arguments.output, video)


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
