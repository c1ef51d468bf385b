"""The scales of the normalisation of queries and keys (Query-Key Normalization, https://arxiv.org/abs/2010.04245)."""

from lora_tta.adaptation.methods.own_weights import OwnWeights
from lora_tta.backbones.base import Backbone
from lora_tta.config import NormsParams


class Method(OwnWeights):
    """A few thousand values, which say how sharp the attention of each head channel is."""

    def __init__(self, backbone: Backbone, params: NormsParams):
        names = backbone.weight_names("qk_norms")
        super().__init__(backbone.network, {name: backbone.network.get_parameter(name) for name in names})
