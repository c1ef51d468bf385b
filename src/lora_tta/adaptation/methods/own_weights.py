"""What the methods have in common that train weights of the network itself, saved as safetensors."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS_NAME = "weights.safetensors"


class OwnWeights:
    """Trains weights of a network; see :class:`~lora_tta.adaptation.methods.base.AdaptationMethod`.

    Args:
        network: whose weights as they are now come back with :meth:`detach`.
        names: paths of the weights.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]):
        self._network = network
        self._weights = {name: network.get_parameter(name) for name in names}
        self._before = self.state()

    def attach(self, seed: int) -> list[nn.Parameter]:
        """Start from the model's own weights; there is nothing to draw."""
        self.restore(self._before)
        self._network.requires_grad_(False)
        for weight in self._weights.values():
            weight.requires_grad_()
        return list(self._weights.values())

    def state(self) -> dict[str, Tensor]:
        """A copy of the weights on the CPU, by their paths."""
        return {name: weight.detach().to("cpu", copy=True) for name, weight in self._weights.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Set the weights."""
        for name, weight in self._weights.items():
            weight.copy_(state[name])

    def save(self, folder: Path, state: dict[str, Tensor]) -> None:
        """Write ``weights.safetensors``, tensors by their paths in the network."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / WEIGHTS_NAME)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Read ``weights.safetensors``."""
        return load_file(folder / WEIGHTS_NAME)

    def load(self, folder: Path) -> None:
        """Set the weights to saved ones."""
        self.restore(self.read(folder))

    def detach(self) -> None:
        """Give the model its own weights back."""
        self._network.requires_grad_(False)
        self.restore(self._before)
