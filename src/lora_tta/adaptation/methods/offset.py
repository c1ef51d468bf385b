"""Vectors that are added to the embedding from which all modulation of the blocks comes."""

from lora_tta.adaptation.methods.own_weights import OwnWeights
from lora_tta.backbones.base import Backbone
from lora_tta.config import OffsetParams


class Method(OwnWeights):
    """One vector for each group of blocks.

    The blocks of all groups read the same embedding of time and caption (adaLN-Zero,
    https://arxiv.org/abs/2212.09748, section 3.2), and an offset moves it for those of one group. Offsets of
    zero, as they are at first, change nothing.
    """

    def __init__(self, backbone: Backbone, params: OffsetParams):
        self._backbone = backbone
        offsets = backbone.put_offsets(params.groups)
        super().__init__(backbone.network, {"offsets": offsets}, "offsets.safetensors")

    def detach(self) -> None:
        """Take the vectors away."""
        self._backbone.remove_offsets()
