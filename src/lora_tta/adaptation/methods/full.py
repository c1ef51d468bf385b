"""All weights of the network: the most that can be trained, and the most that can be lost."""

from lora_tta.adaptation.methods.own_weights import OwnWeights
from lora_tta.backbones.base import Backbone
from lora_tta.config import FullParams
from lora_tta.errors import UserError
from lora_tta.models.memory import GIB, available_memory

# Gradient, and in float32 the weight that is optimised, its gradient and two moments of AdamW.
BYTES_BESIDE_A_WEIGHT = 20


class Method(OwnWeights):
    """Full fine-tuning.

    Raises:
        UserError: the device has no memory for it.
    """

    def __init__(self, backbone: Backbone, params: FullParams):
        count = sum(parameter.numel() for parameter in backbone.network.parameters())
        needed, available = count * BYTES_BESIDE_A_WEIGHT, available_memory(backbone.device)
        if needed > available:
            raise UserError(
                f"adaptation.method full needs about {needed / GIB:.0f} GiB beside the model and "
                f"{backbone.device} has {available / GIB:.0f} GiB left: take lora, offset or norms"
            )
        names = backbone.weight_names("all")
        super().__init__(backbone.network, {name: backbone.network.get_parameter(name) for name in names})
