"""Parameters as they are optimised: in float32, whatever the precision in which the model computes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Masters:
    """A float32 copy of parameters of less precision, and the parameters themselves where they have it.

    A step of 1e-4 is less than half of the distance between neighbouring bfloat16 numbers from 0.0625 on, and
    is rounded away there (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740, section 3.1).

    Args:
        parameters: of the model.

    Attributes:
        weights: what an optimiser is to change, in the order of the parameters.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self._parameters = list(parameters)
        self.weights = [
            parameter
            if parameter.dtype == torch.float32
            else nn.Parameter(parameter.detach().to(torch.float32, copy=True))
            for parameter in self._parameters
        ]
        self._copied = [
            (weight, parameter)
            for weight, parameter in zip(self.weights, self._parameters, strict=True)
            if weight is not parameter
        ]

    def take_gradients(self) -> None:
        """Move the parameters' gradients to their copies."""
        for weight, parameter in self._copied:
            weight.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None

    @torch.no_grad()
    def give_back(self) -> None:
        """Round the copies to the parameters."""
        if self._copied:
            weights, parameters = zip(*self._copied, strict=True)
            torch._foreach_copy_(parameters, weights)

    def state(self) -> list[Tensor]:
        """The copies, which the rounded parameters do not tell; empty where there are none."""
        return [weight.detach() for weight, _ in self._copied]

    @torch.no_grad()
    def restore(self, state: Sequence[Tensor]) -> None:
        """Set the copies; without copies, the parameters are all there is."""
        for (weight, _), value in zip(self._copied, state, strict=True):
            weight.copy_(value)
