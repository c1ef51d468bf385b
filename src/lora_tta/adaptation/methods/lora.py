"""LoRA (https://arxiv.org/abs/2106.09685) by PEFT, saved in PEFT's format."""

import json
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_tta.backbones.base import Backbone
from lora_tta.config import LoraParams
from lora_tta.files import write_text

ADAPTER = "tta"
CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
# What the modules of an adapter follow from.
SHAPING = ("r", "lora_alpha", "target_modules", "use_rslora", "use_dora")


class Method:
    """Low-rank adapters in linear layers; see :class:`~lora_tta.adaptation.methods.base.AdaptationMethod`."""

    def __init__(self, backbone: Backbone, params: LoraParams):
        self._network: Any = backbone.network
        self._config = LoraConfig(
            r=params.rank,
            # PEFT scales by alpha / r, also where alpha is no whole number.
            lora_alpha=params.alpha_over_rank * params.rank,  # type: ignore[arg-type]
            target_modules=backbone.layer_names(params.targets, params.last_blocks, params.pattern),
            init_lora_weights=True,
            use_rslora=params.use_rslora,
            use_dora=params.use_dora,
        )

    def attach(self, seed: int) -> list[nn.Parameter]:
        """Draw A from ``seed``, set B to zero (LoRA, section 4.1), and DoRA's lengths to the weights'."""
        with torch.random.fork_rng(devices=[]):
            if not self._holds(self._config):
                self._inject(self._config)
            torch.manual_seed(seed)
            for module in self._network.modules():
                if isinstance(module, LoraLayer):
                    _reset(module)
        return [parameter for name, parameter in self._network.named_parameters() if "lora_" in name]

    def state(self) -> dict[str, Tensor]:
        """The adapters' tensors under PEFT's names."""
        state = get_peft_model_state_dict(self._network, adapter_name=ADAPTER)
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set the adapters' tensors."""
        set_peft_model_state_dict(self._network, state, adapter_name=ADAPTER)

    def save(self, folder: Path, state: dict[str, Tensor]) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

        ``PeftModel.from_pretrained(transformer, folder)`` loads them, and so does diffusers'
        ``transformer.load_lora_adapter(folder, weight_name="adapter_model.safetensors",
        prefix="base_model.model")``, which takes rank and alpha from the file's metadata.
        """
        config = {
            key: sorted(value) if isinstance(value, set) else value
            for key, value in self._config.to_dict().items()
        }
        write_text(folder / CONFIG_NAME, json.dumps(config, indent=2, sort_keys=True))
        prefixed = {f"{PEFT_PREFIX}{key}": value for key, value in config.items()}
        save_file(
            {f"{PEFT_PREFIX}{name}": tensor.contiguous() for name, tensor in state.items()},
            folder / WEIGHTS_NAME,
            # safetensors writes several entries in random order, and equal adapters must give equal files.
            metadata={"lora_adapter_metadata": json.dumps(prefixed, sort_keys=True)},
        )

    def read(self, folder: Path) -> dict[str, Tensor]:
        """The tensors of a saved adapter."""
        stored = load_file(folder / WEIGHTS_NAME)
        return {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in stored.items()}

    def load(self, folder: Path) -> None:
        """Attach a saved adapter; its configuration gives rank, alpha and layers."""
        config = PeftConfig.from_pretrained(str(folder))
        if not self._holds(config):
            self._inject(config)
        self.restore(self.read(folder))

    def detach(self) -> None:
        """Take the adapters out."""
        if ADAPTER in getattr(self._network, "peft_config", {}):
            self._network.unload_lora()

    def _inject(self, config: PeftConfig) -> None:
        self.detach()
        self._network.requires_grad_(False)
        self._network.add_adapter(config, ADAPTER)

    def _holds(self, config: Any) -> bool:
        held = getattr(self._network, "peft_config", {}).get(ADAPTER)
        return held is not None and all(getattr(held, name) == getattr(config, name) for name in SHAPING)


def _reset(layer: LoraLayer) -> None:
    # Drawn on the CPU in float32, so that a seed means the same adapter on every device and precision.
    down, up = (cast(nn.Linear, part[ADAPTER]).weight for part in (layer.lora_A, layer.lora_B))
    initial = torch.empty(down.shape)
    nn.init.kaiming_uniform_(initial, a=5**0.5)
    with torch.no_grad():
        down.copy_(initial)
        up.zero_()
        for magnitude in layer.lora_magnitude_vector.values():
            weight = cast(nn.Linear, layer.get_base_layer()).weight
            cast(nn.Linear, magnitude).weight.copy_(torch.linalg.norm(weight.float(), dim=1))
