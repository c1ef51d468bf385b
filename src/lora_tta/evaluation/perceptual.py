"""LPIPS with torchvision's ImageNet AlexNet, or a stand-in that says by its name that it is not LPIPS.

The linear heads of LPIPS come with the ``lpips`` package; its AlexNet trunk is a separate file that
torchvision publishes (233 MB). It counts as trained only if its SHA-256 starts with the digits in its name.
"""

import logging
import warnings
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

import lpips
import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models import AlexNet_Weights

from lora_tta.errors import UserError
from lora_tta.evaluation.published_file import PublishedFile
from lora_tta.records.metric_table import TRAINED_NAME, UNTRAINED_NAME

logger = logging.getLogger(__name__)

PerceptualMode = Literal["auto", "required", "untrained"]
DecidedMode = Literal["required", "untrained"]

UNTRAINED_SEED = 0
MIN_FRAME_SIZE = 31


class PerceptualDistance(nn.Module):
    """Distance of deep features between pairs of frames; lower is closer, 0 is identical.

    Attributes:
        name: ``"lpips"`` with the ImageNet backbone, ``"lpips_untrained"`` with a random one. Results
            are stored under this name, and the two are never compared with each other.
    """

    def __init__(self, model: lpips.LPIPS, name: str) -> None:
        super().__init__()
        self.model = model
        self.name = name
        self.eval().requires_grad_(False)

    def forward(self, generated: Tensor, target: Tensor) -> Tensor:
        """Distances of n pairs of frames.

        Args:
            generated: (n, 3, height, width) RGB in 0..255, float32, at least 31 pixels each way.
            target: the same shape and range.

        Returns:
            (n,) distances.
        """
        return self.model(generated / 127.5 - 1, target / 127.5 - 1).flatten()

    def between_neighbours(self, frames: Tensor) -> Tensor:
        """Distances between each frame and the next, as :meth:`forward` has them.

        The features of a frame are computed once, though it has two neighbours.

        Args:
            frames: (n, 3, height, width) as :meth:`forward` takes them.

        Returns:
            (n - 1,) distances.
        """
        layers = self.model.net(self.model.scaling_layer(frames / 127.5 - 1))
        heads = self.model.lins if self.model.lpips else [_sum_of_channels] * len(layers)
        total = frames.new_zeros(len(frames) - 1)
        for head, layer in zip(heads, layers, strict=True):
            features = lpips.normalize_tensor(layer)
            total = total + head((features[1:] - features[:-1]) ** 2).mean(dim=(1, 2, 3))
        return total


def _sum_of_channels(differences: Tensor) -> Tensor:
    return differences.sum(dim=1, keepdim=True)


def decide_mode(mode: PerceptualMode, weights_url: str = AlexNet_Weights.IMAGENET1K_V1.url) -> DecidedMode:
    """Whether the trained backbone is taken, to be asked once for all that is compared.

    Args:
        mode: ``auto`` takes the trained backbone where its file is in torch hub's checkpoint folder or can
            be fetched (one attempt a process), else warns and takes the untrained one; ``required`` makes
            that an error; ``untrained`` never looks for the file.
        weights_url: where the backbone is published; its file name ends in the first digits of its SHA-256.

    Raises:
        UserError: ``required``, and there is no trained backbone.
    """
    if mode == "untrained":
        return mode
    published = _trunk(weights_url)
    problem = published.problem()
    if problem is None:
        return "required"
    if mode == "required":
        raise UserError(
            f"evaluation.lpips is 'required', but {problem}: download {weights_url} to {published.path}, "
            "or set evaluation.lpips to 'untrained', which is never compared with LPIPS"
        )
    logger.warning(
        "\n%s\nLPIPS IS NOT AVAILABLE: %s.\nThe run measures '%s' with an untrained backbone instead. "
        "It is not LPIPS; never compare the two.\nFor LPIPS, download %s\nto %s\n"
        "and set evaluation.lpips to 'required'.\n%s",
        *("=" * 100, problem, UNTRAINED_NAME, weights_url, published.path, "=" * 100),
    )
    return "untrained"


def load_perceptual_distance(
    mode: PerceptualMode,
    device: torch.device | str,
    weights_url: str = AlexNet_Weights.IMAGENET1K_V1.url,
) -> PerceptualDistance:
    """Load LPIPS (AlexNet, version 0.1; Zhang et al. 2018), or its untrained stand-in.

    The arguments and errors are those of :func:`decide_mode`; ``device`` is where the distance is computed.
    """
    is_trained = decide_mode(mode, weights_url) == "required"
    distance = _trained_distance(_trunk(weights_url).path) if is_trained else _untrained_distance()
    return distance.to(device)


def _trunk(url: str) -> PublishedFile:
    """Torchvision's file, whose name ends in the first digits of its SHA-256."""
    return PublishedFile(url, Path(urlparse(url).path).stem.rpartition("-")[2])


def _trained_distance(file: Path) -> PerceptualDistance:
    published = torch.load(file, map_location="cpu", weights_only=True)
    model = _empty_trunk(lpips_heads=True)
    # lpips cuts torchvision's `features` into slices and keeps their numbers: slice2.3 is features.3.
    trunk = {name: published[f"features.{name.partition('.')[2]}"] for name in model.net.state_dict()}
    model.net.load_state_dict(trunk)
    return PerceptualDistance(model, TRAINED_NAME)


def _untrained_distance() -> PerceptualDistance:
    """Plain sum over a random trunk's layers: the heads of LPIPS are calibrated for the trained trunk only.

    He-normal weights from NumPy's frozen ``RandomState`` stream and zero biases, so that the distance is
    the same in every process and with every version of torch.
    """
    model = _empty_trunk(lpips_heads=False)
    stream = np.random.RandomState(UNTRAINED_SEED)
    for parameter in model.net.parameters():
        if parameter.ndim == 1:
            parameter.zero_()
        else:
            scale = (2 / parameter[0].numel()) ** 0.5
            parameter.copy_(torch.from_numpy(scale * stream.standard_normal(tuple(parameter.shape))))
    return PerceptualDistance(model, UNTRAINED_NAME)


class _NoInitialisation(TorchFunctionMode):
    """Leaves weights as they are allocated.

    Most of the half second that AlexNet's take to draw goes into layers that LPIPS has no use for.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        initialises = getattr(func, "__module__", None) == "torch.nn.init"
        return None if initialises else func(*args, **(kwargs or {}))


def _empty_trunk(lpips_heads: bool) -> lpips.LPIPS:
    with _NoInitialisation(), warnings.catch_warnings():
        # lpips still calls torchvision with the old `pretrained` argument.
        warnings.filterwarnings("ignore", module="torchvision")
        return lpips.LPIPS(net="alex", lpips=lpips_heads, pnet_rand=True, verbose=False)
