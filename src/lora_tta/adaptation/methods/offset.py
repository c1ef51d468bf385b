"""Vectors that are added to the embedding from which all modulation of the blocks comes."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_tta.backbones.base import Backbone
from lora_tta.config import OffsetParams

NAME, FILE = "offsets", "offsets.safetensors"


class Method:
    """One vector for each group of blocks; see :class:`~lora_tta.adaptation.methods.base.AdaptationMethod`.

    The blocks of all groups read the same embedding of time and caption (adaLN-Zero,
    https://arxiv.org/abs/2212.09748, section 3.2), and an offset moves it for those of one group.
    """

    def __init__(self, backbone: Backbone, params: OffsetParams):
        self._backbone = backbone
        self._groups = params.groups
        self._offsets: nn.Parameter | None = None

    def attach(self, seed: int) -> list[nn.Parameter]:
        """Start from zero; there is nothing to draw."""
        self._backbone.network.requires_grad_(False)
        with torch.no_grad():
            offsets = self._attached()
            offsets.zero_()
        offsets.requires_grad_()
        return [offsets]

    def state(self) -> dict[str, Tensor]:
        """The vectors (groups, C)."""
        return {NAME: self._attached().detach().to("cpu", copy=True)}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Set the vectors."""
        self._attached().copy_(state[NAME])

    def save(self, folder: Path, state: dict[str, Tensor]) -> None:
        """Write ``offsets.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / FILE)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Read ``offsets.safetensors``."""
        return load_file(folder / FILE)

    def load(self, folder: Path) -> None:
        """Attach saved vectors."""
        self.restore(self.read(folder))

    def detach(self) -> None:
        """Take the vectors away."""
        self._backbone.remove_offsets()
        self._offsets = None

    def _attached(self) -> nn.Parameter:
        if self._offsets is None:
            self._offsets = self._backbone.put_offsets(self._groups)
        return self._offsets
