"""The methods of adaptation, one module each; their settings are in ``config.MethodParams``."""

from importlib import import_module
from typing import TYPE_CHECKING

from lora_tta.config import MethodParams

if TYPE_CHECKING:
    from lora_tta.adaptation.methods.base import AdaptationMethod
    from lora_tta.backbones.base import Backbone


def method_module(name: str) -> str:
    """The module of a method."""
    return f"{__name__}.{name}"


class MethodSlot:
    """The one method that a model holds at a time."""

    def __init__(self, backbone: "Backbone"):
        self._backbone = backbone
        self._params: MethodParams | None = None
        self._held: AdaptationMethod | None = None

    def put(self, params: MethodParams) -> "AdaptationMethod":
        """The method with these settings: the one that is there, or a new one in its place."""
        if self._held is None or params != self._params:
            self.clear()
            self._held = import_module(method_module(params.name)).Method(self._backbone, params)
            self._params = params
        return self._held

    def clear(self) -> None:
        """Leave the model without adaptation."""
        if self._held is not None:
            self._held.detach()
        self._held = self._params = None
