"""FVD: the features of videos by one named network, and the distance between two sets of them.

FVD is the Fréchet distance between the features of generated and of true videos (Unterthiner et al. 2018,
https://arxiv.org/abs/1812.01717). It belongs to a set of clips, not to a clip. The network is I3D, trained on
Kinetics-400, as TorchScript from the evaluation of StyleGAN-V (https://github.com/universome/fvd-comparison);
under the name FVD there is no other.
"""

import logging
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from lora_tta.errors import UserError
from lora_tta.evaluation.published_file import PublishedFile
from lora_tta.records.features import MIN_CLIPS

logger = logging.getLogger(__name__)

FVDMode = Literal["off", "auto", "required"]
DecidedFVD = Literal["off", "required"]

I3D = PublishedFile(
    "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
)


def decide_fvd(mode: FVDMode, clips: int, weights: PublishedFile = I3D) -> DecidedFVD:
    """Whether FVD is measured, to be asked once for all that is compared.

    Args:
        mode: ``auto`` measures it where there are enough clips and the network's file can be had, else warns;
            ``required`` makes that an error; ``off`` never looks for the file.
        clips: for the test.
        weights: the network's file.

    Raises:
        UserError: ``required``, and it cannot be measured.
    """
    if mode == "off":
        return mode
    if clips < MIN_CLIPS:
        problem = f"it takes {MIN_CLIPS} test clips and there are {clips}"
        remedy = "raise preprocess.num_clips"
    else:
        problem = weights.problem()
        remedy = f"download {weights.url} to {weights.path}"
    if problem is None:
        return "required"
    if mode == "required":
        raise UserError(
            f"evaluation.fvd is 'required', but {problem}: {remedy}, or set evaluation.fvd to 'off'"
        )
    logger.warning("FVD is not measured: %s; %s.", problem, remedy)
    return "off"


class VideoFeatures:
    """Features of videos by I3D.

    Args:
        device: where they are computed.
        weights: the network's file, a TorchScript module that is called as the published one.

    Raises:
        UserError: the file is not to be had, or is another one. It is code, and runs only with
            the right hash.
    """

    def __init__(self, device: torch.device | str, weights: PublishedFile = I3D):
        if problem := weights.problem():
            raise UserError(f"FVD cannot be measured: {problem}; download {weights.url} to {weights.path}")
        self.device = device
        self._network = torch.jit.load(str(weights.path), map_location=device).eval()

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Features of one video.

        Args:
            frames: (n, height, width, 3) RGB uint8, 16 frames or more.

        Returns:
            (400,) float32, the outputs before the softmax.
        """
        video = torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)))[None]
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            features = self._network(
                video.to(self.device).float(), rescale=True, resize=True, return_features=True
            )
        return features[0].float().cpu().numpy()


def frechet_distance(generated: np.ndarray, target: np.ndarray) -> float:
    """Fréchet distance between two sets of features (n, k), as torchmetrics has it for images."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    measure = FrechetInceptionDistance(feature=_AsTheyAre(generated.shape[1]))
    for features, real in ((target, True), (generated, False)):
        measure.update(torch.from_numpy(features).double(), real=real)
    return float(cast(Tensor, measure.compute()))


class _AsTheyAre(nn.Module):
    """What torchmetrics takes for a network; the features are computed already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
