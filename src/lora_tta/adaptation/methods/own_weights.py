"""What the methods have in common that train parameters of the network itself, saved as safetensors."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class OwnWeights:
    """Trains parameters of a network; see :class:`~lora_tta.adaptation.methods.base.AdaptationMethod`.

    Args:
        network: which holds the parameters.
        weights: the parameters, by the names under which they are saved; their values as they are now come
            back with :meth:`detach`.
        file_name: of the file that :meth:`save` writes.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: Mapping[str, nn.Parameter],
        file_name: str = "weights.safetensors",
    ):
        self._network = network
        self._weights = dict(weights)
        self._file_name = file_name
        self._before = self.state()

    def attach(self, seed: int) -> list[nn.Parameter]:
        """Start from the values of before; there is nothing to draw."""
        self.restore(self._before)
        self._network.requires_grad_(False)
        for weight in self._weights.values():
            weight.requires_grad_()
        return list(self._weights.values())

    def state(self) -> dict[str, Tensor]:
        """A copy of the parameters on the CPU, by their names."""
        return {name: weight.detach().to("cpu", copy=True) for name, weight in self._weights.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Set the parameters."""
        for name, weight in self._weights.items():
            weight.copy_(state[name])

    def save(self, folder: Path, state: dict[str, Tensor]) -> None:
        """Write one safetensors file, tensors by their names."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / self._file_name)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Read the file of :meth:`save`."""
        return load_file(folder / self._file_name)

    def load(self, folder: Path) -> None:
        """Set the parameters to saved ones."""
        self.restore(self.read(folder))

    def detach(self) -> None:
        """Give the parameters their values of before."""
        self._network.requires_grad_(False)
        self.restore(self._before)
