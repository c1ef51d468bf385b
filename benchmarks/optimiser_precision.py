"""What optimising in float32 changes where the model computes in bfloat16, against a model all in float32.

Every clip is adapted three times at each learning rate: by a model in float32, and by one in bfloat16 whose
adapter is optimised in float32 (as the pipeline does), or in bfloat16 itself. From the repository root, after
`dvc pull data.dvc models/embedded.dvc`:

    python benchmarks/optimiser_precision.py --clips 12
    python benchmarks/optimiser_precision.py --clips 1 --steps 2           # smoke test of this script
"""

import argparse
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from record_scores import continuation_psnr
from torch import Tensor, nn

from lora_tta.adaptation import trajectory
from lora_tta.adaptation.masters import Masters
from lora_tta.adaptation.methods import MethodSlot
from lora_tta.backbones.base import Conditioning
from lora_tta.cache.keys import derive_seed
from lora_tta.config import Params, load_params
from lora_tta.data.preprocess import preprocess
from lora_tta.data.video import read_conditioning_frames
from lora_tta.experiment.lazy_model import LazyModel
from lora_tta.records.clips import Clip, read_manifest

EXACT, KEPT, ROUNDED = "all in float32", "bfloat16, optimised in float32", "bfloat16, optimised in it"


class NoMasters(Masters):
    """The parameters themselves, in their own precision."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self._parameters = self.weights = list(parameters)
        self._copied = []


@contextmanager
def optimised_in(way: str) -> Iterator[None]:
    """Adapt in this way meanwhile."""
    with patch.object(trajectory, "Masters", NoMasters if way == ROUNDED else Masters):
        yield


class Adapter:
    """Adapts clips with the model of the settings in one way; the model is loaded once."""

    def __init__(self, params: Params, way: str, folder: Path):
        dtype = "float32" if way == EXACT else "bfloat16"
        model = params.model.model_copy(update={"dtype": dtype, "accelerate": False})
        self.params, self.way, self.folder = params, way, folder
        self.backbone = LazyModel(model, folder).backbone
        self.methods = MethodSlot(self.backbone)

    def run(
        self, clip: Clip, encoded: Conditioning, rate: float, num_steps: int, gains: bool
    ) -> tuple[Tensor, float]:
        """What the adaptation added to the parameters, flat, and the gain of PSNR in dB, or nan."""
        backbone = self.backbone
        conditioning = encoded.to(backbone.device, backbone.dtype)
        seed = derive_seed(self.params.generation.seed, clip.clip_id)

        def score() -> float:
            return continuation_psnr(self.folder, clip, backbone, conditioning, self.params.generation, seed)

        self.methods.clear()
        before = score() if gains else math.nan
        adaptation = self.params.adaptation.at({"learning_rate": rate, "num_steps": num_steps})
        method = self.methods.put(adaptation.method)
        method.attach(seed)
        start = {name: value.float() for name, value in method.state().items()}
        with optimised_in(self.way):
            (snapshot,) = trajectory.adapt(backbone, method, conditioning, adaptation, seed)
        added = [snapshot.parameters[name].float() - start[name] for name in start]
        return torch.cat([value.flatten() for value in added]), (score() if gains else math.nan) - before


def main() -> None:
    """Print a row for each learning rate and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--psnr", action="store_true", help="continue the clips too; slow without a GPU")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 1e-3])
    options = parser.parse_args()
    params = load_params()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cut = params.preprocess.model_copy(update={"num_clips": max(options.clips, 2), "search_clips": 1})
        preprocess(params.data, cut, folder, workers=1)
        clips = read_manifest(folder)[: options.clips]
        encoder = LazyModel(params.model.model_copy(update={"dtype": "float32"}), folder, for_encoding=True)
        encoded = [
            encoder.backbone.encode(read_conditioning_frames(folder, clip), clip.caption) for clip in clips
        ]
        ways = {way: Adapter(params, way, folder) for way in (EXACT, KEPT, ROUNDED)}
        print("| learning rate | model | change, of the exact one | its error | PSNR, dB |")
        print("| --- | --- | --- | --- | --- |")
        for rate in options.rates:
            made = {
                way: [
                    it.run(*given, rate, options.steps, options.psnr)
                    for given in zip(clips, encoded, strict=True)
                ]
                for way, it in ways.items()
            }
            exact = [added for added, _ in made[EXACT]]
            for way, results in made.items():
                pairs = [(added, reference) for (added, _), reference in zip(results, exact, strict=True)]
                size = np.mean([float(a.norm() / e.norm()) for a, e in pairs])
                error = np.mean([float((a - e).norm() / e.norm()) for a, e in pairs])
                gain = f"{np.mean([gain for _, gain in results]):+.3f}" if options.psnr else "not measured"
                print(f"| {rate:g} | {way} | {size:.2f} | {error:.2f} | {gain} |", flush=True)


if __name__ == "__main__":
    main()
