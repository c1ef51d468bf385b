"""PSNR of every point of the published space on every clip, at several numbers of sampling steps.

`search_replay.py` replays searches with the table, which costs no model's work. Clips, seeds and values are
those of the pipeline. Rows that are there are not computed again: run the command again after a kill, and it
goes on. From the repository root, after `dvc pull data.dvc models/embedded.dvc`:

    python benchmarks/record_scores.py --clips 20 --output scores.csv
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from search_saving import SPACE

from lora_tta.adaptation.methods import MethodSlot
from lora_tta.adaptation.trajectory import adapt
from lora_tta.backbones.base import Backbone, Conditioning
from lora_tta.cache.keys import derive_seed
from lora_tta.config import GenerationParams, Params, load_params
from lora_tta.data.preprocess import preprocess
from lora_tta.data.video import read_clip_frames, read_conditioning_frames
from lora_tta.evaluation.frame_metrics import psnr
from lora_tta.experiment.lazy_model import LazyModel
from lora_tta.generation.continuation import generate_continuation
from lora_tta.records.clips import Clip, read_manifest

COLUMNS = ["clip", "rank", "learning_rate", "num_steps", "num_inference_steps", "psnr"]
BASELINE = (0, 0.0, 0)


class Recorder:
    """Scores points on clips; the model is loaded once, with its text encoders."""

    def __init__(self, params: Params, folder: Path):
        self.params, self.folder = params, folder
        self.model = LazyModel(params.model, folder, for_encoding=True)
        # Encoding needs no transformer, and this process both.
        self.generating = LazyModel(params.model, folder)
        self.methods = MethodSlot(self.generating.backbone)

    def rows(self, clip: Clip, sampling_steps: list[int]) -> list[tuple]:
        """All rows of a clip: the baseline's, and for each rank and learning rate one trajectory's."""
        frames = read_conditioning_frames(self.folder, clip)
        conditioning = self.model.backbone.encode(frames, clip.caption)
        generation_seed = derive_seed(self.params.generation.seed, clip.clip_id)
        rows = []

        def score(point: tuple) -> None:
            for steps in sampling_steps:
                generation = self.params.generation.model_copy(update={"num_inference_steps": steps})
                given = self.generating.backbone, conditioning, generation
                value = continuation_psnr(self.folder, clip, *given, generation_seed)
                rows.append((clip.clip_id, *point, steps, value))

        self.methods.clear()
        score(BASELINE)
        for rank in SPACE["rank"]:
            for rate in SPACE["learning_rate"]:
                point = {"rank": rank, "learning_rate": rate, "num_steps": max(SPACE["num_steps"])}
                adaptation = self.params.adaptation.at(point)
                method = self.methods.put(adaptation.method)
                seed = derive_seed(self.params.adaptation.seed, clip.clip_id)
                given = self.generating.backbone, method, conditioning, adaptation, seed
                for snapshot in adapt(*given, save_at=SPACE["num_steps"]):
                    score((rank, rate, snapshot.num_steps))
        return rows


def continuation_psnr(
    folder: Path,
    clip: Clip,
    backbone: Backbone,
    conditioning: Conditioning,
    generation: GenerationParams,
    seed: int,
) -> float:
    """PSNR in dB of a continuation by what the model holds."""
    made = generate_continuation(backbone, conditioning, clip.num_frames, generation, seed).frames
    return psnr(_as_tensor(made, clip), _as_tensor(read_clip_frames(folder, clip), clip)).value


def _as_tensor(frames: np.ndarray, clip: Clip) -> torch.Tensor:
    return torch.from_numpy(frames[clip.conditioning_frames :]).permute(0, 3, 1, 2).float()


def main() -> None:
    """Record clip by clip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=20, help="of the data, the first of the manifest")
    parser.add_argument("--sampling-steps", type=int, default=8)
    parser.add_argument("--fewer-steps", type=int, default=4, help="sampling steps of a screening")
    parser.add_argument("--screened", type=int, default=8, help="clips that have them, the first")
    parser.add_argument(
        "--share", default="0/1", help="i/n: every n-th clip from i on, for one of n processes"
    )
    parser.add_argument("--output", type=Path, required=True, help="CSV; one for each process")
    parser.add_argument("--work", type=Path, default=Path(".cache/record_scores"))
    options = parser.parse_args()
    params = load_params()
    first, count = map(int, options.share.split("/"))
    cut = params.preprocess.model_copy(update={"num_clips": options.clips})
    clips_folder = options.work / f"clips-{first}"
    preprocess(params.data, cut, clips_folder, workers=1)
    recorder = Recorder(params, clips_folder)
    known = set(pd.read_csv(options.output)["clip"]) if options.output.exists() else set()
    steps = options.sampling_steps
    for number, clip in list(enumerate(read_manifest(clips_folder)))[first::count]:
        if clip.clip_id not in known:
            sampling_steps = [steps, options.fewer_steps] if number < options.screened else [steps]
            table = pd.DataFrame(recorder.rows(clip, sampling_steps), columns=COLUMNS)
            table.to_csv(options.output, mode="a", header=not options.output.exists(), index=False)
            print(f"{clip.clip_id}: {len(table)} rows", flush=True)


if __name__ == "__main__":
    main()
