"""The interface of a method of adaptation."""

from pathlib import Path
from typing import Protocol

from torch import Tensor, nn


class AdaptationMethod(Protocol):
    """Trainable parameters in a model's network: attached, reset for the next clip, saved and loaded.

    The module of a method, ``lora_tta.adaptation.methods.<name>``, has a class ``Method`` of this type. It is
    constructed with a :class:`~lora_tta.backbones.base.Backbone` and the method's own settings, which are a
    section of ``config.py``.
    """

    def attach(self, seed: int) -> list[nn.Parameter]:
        """Make freshly initialised parameters the only trainable ones of the network.

        The network's output does not change until the first step. Parameters of the same shapes that are
        attached already are reset in place, which keeps compiled code valid.

        Args:
            seed: of the initialisation.

        Returns:
            The parameters, in a fixed order.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """A copy of the parameters on the CPU, by name."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set the attached parameters to a state."""
        ...

    def save(self, folder: Path, state: dict[str, Tensor]) -> None:
        """Write a state to a folder in a public format; equal states give equal files."""
        ...

    def read(self, folder: Path) -> dict[str, Tensor]:
        """The state that :meth:`save` wrote."""
        ...

    def load(self, folder: Path) -> None:
        """Attach the parameters in a folder, in place of any that are attached."""
        ...

    def detach(self) -> None:
        """Leave the network as it was before the method."""
        ...
