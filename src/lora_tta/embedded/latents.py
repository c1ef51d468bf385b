"""The latent space of the embedded model: principal components of video blocks.

A latent holds the first principal components of the 4 frames x 4 x 4 pixels it stands for, fitted once on
rendered clips. The VAE's encoder is trained to reproduce them and its decoder to draw from them. Without
that, the VAE rested on a grey reconstruction for as long as it was tried (1200 steps). And the transformer,
trained on the components, need not wait for the VAE.

``python -m lora_tta.embedded.latents --output FILE``
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import conv3d, pad

from lora_tta.embedded.footage_rendering import PhotographBank
from lora_tta.embedded.recipe import VALIDATION_SEED, VAERecipe, Video
from lora_tta.embedded.scenes import render_videos, scene_batches
from lora_tta.models.packing import SPATIAL_COMPRESSION
from lora_tta.models.vae import gather_blocks

BLOCK = (4, 4, 4)  # frames, rows, columns: what a latent of the VAE stands for
FIT_BATCH = 70


@dataclass
class LatentSpace:
    """A projection of video blocks.

    Attributes:
        weight: (channels, 3, 4, 4, 4).
        bias: (channels,).
    """

    weight: Tensor
    bias: Tensor

    def encode(self, videos: Tensor) -> Tensor:
        """Latents (B, C, T, H/4, W/4) of videos (B, 3, 4 (T - 1) + 1, H, W); frame 1 counts four times."""
        padded = pad(videos, (0, 0, 0, 0, BLOCK[0] - 1, 0), mode="replicate")
        return conv3d(padded, self.weight, self.bias, stride=BLOCK)

    def gathered(self, videos: Tensor) -> Tensor:
        """Latents as the transformer gets those of the VAE: (B, 4 channels, T, H/8, W/8)."""
        return gather_blocks(self.encode(videos), SPATIAL_COMPRESSION // BLOCK[1])

    def spreads(self) -> Tensor:
        """Spread of each channel as the transformer gets it, relative to their mean: (4 channels,).

        A latent of a wide channel stands for more of the picture: for the spread's square, in squared pixels.
        """
        spreads = 1 / self.weight.flatten(1).norm(dim=1)  # by the gains of `fit_latent_space`
        return (spreads / spreads.mean()).repeat_interleave((SPATIAL_COMPRESSION // BLOCK[1]) ** 2)

    def to(self, device: torch.device) -> "LatentSpace":
        """The same projection on another device."""
        return LatentSpace(self.weight.to(device), self.bias.to(device))

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        save_file({"weight": self.weight.cpu().contiguous(), "bias": self.bias.cpu()}, path)

    @classmethod
    def load(cls, path: Path) -> "LatentSpace":
        """Read a file of ``save``."""
        return cls(**load_file(path))


def fit_latent_space(
    video: Video, channels: int, clips: int = 280, bank: PhotographBank | None = None
) -> LatentSpace:
    """Fit the components, with gains that halve the spread of their variances (in dB) and make the mean 1."""
    short = replace(video, num_frames=BLOCK[0] + 1)
    size = min(clips, FIT_BATCH)
    batches = scene_batches(
        short, size, VALIDATION_SEED + 20_000, clips // size, torch.device("cpu"), photographs=len(bank or ())
    )
    videos = torch.cat([render_videos(scenes, short, bank) for scenes, _ in batches])
    blocks = torch.cat((videos[:, :, :1].expand(-1, -1, BLOCK[0], -1, -1), videos[:, :, 1:]), dim=2)
    for axis, size in zip((2, 3, 4), BLOCK, strict=True):
        blocks = blocks.unfold(axis, size, size)
    blocks = blocks.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(0, 3).flatten(1).double()
    mean = blocks.mean(dim=0)
    variances, directions = torch.linalg.eigh(torch.cov(blocks.T))
    variances, directions = variances.flip(0)[:channels], directions.flip(1).T[:channels]
    gains = variances**-0.25
    gains = gains / (gains**2 * variances).mean().sqrt()
    projection = directions * gains[:, None]
    return LatentSpace(projection.reshape(channels, 3, *BLOCK).float(), -(projection @ mean).float())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, help="folder of lora_tta.embedded.photographs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=280)
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    bank = PhotographBank(arguments.photographs) if arguments.photographs else None
    channels = VAERecipe().config["latent_channels"]
    fit_latent_space(Video(), channels, arguments.clips, bank).save(arguments.output)


if __name__ == "__main__":
    main()
