"""The questions that adaptation and generation ask of a model, and what a clip shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_tta.config import GenerationParams, ModelParams
from lora_tta.files import atomic


@dataclass(frozen=True)
class Conditioning:
    """Everything that adaptation and generation ever receive of a clip: its known frames and its caption.

    The frames to be predicted have no way in.

    Attributes:
        tensors: by names that the model chooses; batch size 1.
    """

    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """The same tensors on another device, in another precision."""
        return type(self)({name: tensor.to(device, dtype) for name, tensor in self.tensors.items()})

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        with atomic(path) as partial:
            save_file({name: tensor.contiguous().cpu() for name, tensor in self.tensors.items()}, partial)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file of :meth:`save`."""
        return cls(load_file(path))


class Backbone(Protocol):
    """A video diffusion model, as adaptation and generation use it.

    The module of a model, ``lora_tta.backbones.<name>``, has a function ``load`` of the type :class:`Load`.

    Attributes:
        network: the denoising network, to which a method of adaptation attaches its parameters; a diffusers
            model with PEFT's mixin.
        device: where it computes.
        dtype: of its weights.
        first_use_seconds: what this process has spent so far on what it does once, such as compiling. That
            is no part of the costs of a clip.
    """

    @property
    def network(self) -> nn.Module: ...  # noqa: D102

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102

    @property
    def first_use_seconds(self) -> float: ...  # noqa: D102

    def encode(self, frames: np.ndarray, caption: str) -> Conditioning:
        """Encode the conditioning frames, uint8 (F, H, W, 3), F = 4 k + 1, and the caption of one clip."""
        ...

    def clean_latents(self, conditioning: Conditioning) -> Tensor:
        """The latents of the conditioning frames, float32 (1, C, T, H', W')."""
        ...

    def first_latents(self, conditioning: Conditioning, count: int) -> Conditioning:
        """The conditioning of the first ``count`` latent frames, encoded together with the others."""
        ...

    def encode_view(self, conditioning: Conditioning, frames: np.ndarray, pace: float) -> Conditioning:
        """The conditioning of other frames with the same caption.

        Args:
            conditioning: of the clip.
            frames: uint8 (F, H, W, 3), 4 k + 1 of them.
            pace: time from one frame to the next, that of the clip being 1.
        """
        ...

    def known_part(self, view: Conditioning, count: int) -> Conditioning | None:
        """The part of a view that shows nothing after the clip's first ``count`` latent frames.

        None if that is less than two latent frames.
        """
        ...

    def shift_timesteps(self, timesteps: Tensor, latents: Tensor) -> Tensor:
        """Shift flow-matching times in [0, 1] towards the noise, as the model's own training does."""
        ...

    def loss(
        self,
        conditioning: Conditioning,
        noise: Tensor,
        timestep: Tensor,
        num_visible: int,
        first_scored: int,
    ) -> Tensor:
        """Error of one denoising step on the conditioning frames, a scalar in float32.

        Args:
            conditioning: on the model's device.
            noise: of the shape of :meth:`clean_latents`.
            timestep: (1,), in [0, 1]; 1 is pure noise.
            num_visible: number of latent frames, from the first, that the model is shown.
            first_scored: the first latent frame whose error counts.
        """
        ...

    def recompute_activations(self, conditioning: Conditioning, recompute: bool | None) -> None:
        """Switch recomputation in the backward pass on or off; None decides by the memory that is left."""
        ...

    def sample(
        self, conditioning: Conditioning, num_frames: int, params: GenerationParams, seed: int
    ) -> np.ndarray:
        """Generate a clip of F = ``num_frames``: float (F, H, W, 3) in [0, 1], the known frames included.

        The starting noise depends on ``seed`` alone.

        Raises:
            FailedWork: the result holds values that are not finite.
        """
        ...

    def reconstruct(self, frames: np.ndarray) -> np.ndarray:
        """Encode frames, uint8 (F, H, W, 3), to latents and back: float (F, H, W, 3) in [0, 1]."""
        ...

    def layer_names(
        self, kinds: Sequence[str], last_blocks: int | None = None, pattern: str | None = None
    ) -> list[str]:
        """Paths of linear layers, or their ends where all blocks have them.

        Args:
            kinds: ``attention``, ``mlp``.
            last_blocks: in so many blocks at the end alone; None takes all.
            pattern: a regular expression that matches some part of the paths; None takes any.

        Raises:
            UserError: no layer is left.
        """
        ...

    def weight_names(self, kind: Literal["qk_norms", "all"]) -> list[str]:
        """Paths of the network's own weights, of the normalisation of queries and keys or all.

        Raises:
            UserError: the network runs in a form in which they have no gradients.
        """
        ...

    def put_offsets(self, groups: int) -> nn.Parameter:
        """Add vectors of zeros (groups, C) to what modulates each of so many groups of blocks; return them.

        Raises:
            UserError: there are fewer blocks than groups.
        """
        ...

    def remove_offsets(self) -> None:
        """Take them away."""
        ...


class Load(Protocol):
    """Loads a model from a folder."""

    def __call__(self, params: ModelParams, device: torch.device, for_encoding: bool) -> Backbone:
        """The model on a device, with its text encoders if it is ``for_encoding``."""
        ...
