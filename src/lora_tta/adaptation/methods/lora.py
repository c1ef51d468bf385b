"""LoRA (https://arxiv.org/abs/2106.09685) by PEFT, saved in PEFT's format."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_tta.adaptation.methods.starts import TAKEN_FROM_WEIGHTS, draw, take_from_weight
from lora_tta.backbones.base import Backbone
from lora_tta.config import LoraParams
from lora_tta.errors import UserError
from lora_tta.files import write_text

ADAPTER = "tta"
CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
# What the modules of an adapter follow from.
SHAPING = ("r", "lora_alpha", "target_modules", "use_rslora", "use_dora")


class Method:
    """Low-rank adapters in linear layers; see :class:`~lora_tta.adaptation.methods.base.AdaptationMethod`.

    Adapters that start at a part of the weights are saved as plain ones: the trained matrices beside the
    first ones, which they take away. These have twice the rank, and go with the network's whole weights.

    Raises:
        UserError: the adapters are to start at weights that the accelerated model does not use.
    """

    def __init__(self, backbone: Backbone, params: LoraParams):
        self._network: Any = backbone.network
        self._start = params.init_lora_weights
        # Of adapters that start at a part of the weights: the weights, and what has been taken from them.
        self._whole: dict[str, Tensor] = {}
        self._taken: dict[str, Tensor] = {}
        if self._start in TAKEN_FROM_WEIGHTS:
            try:
                backbone.weight_names("all")
            except UserError as error:
                raise UserError(
                    f"adaptation.method.init_lora_weights {self._start} changes the model's weights: {error}"
                ) from None
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
        """Set A and B to what they start from, see :mod:`~lora_tta.adaptation.methods.starts`."""
        with torch.random.fork_rng(devices=[]):
            if not self._holds(self._config):
                self._inject(self._config)
            if self._start in TAKEN_FROM_WEIGHTS:
                self._start_from_weights(str(self._start))
            else:
                torch.manual_seed(seed)
                for layer in self._layers().values():
                    draw(layer, ADAPTER, self._start)
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
        config: dict[str, Any] = {
            key: sorted(value) if isinstance(value, set) else value
            for key, value in self._config.to_dict().items()
        }
        if self._taken:
            # alpha / r stays, or alpha / sqrt(r).
            growth = 2**0.5 if self._config.use_rslora else 2
            config |= {"r": 2 * config["r"], "lora_alpha": growth * config["lora_alpha"]}
            state = {name: self._beside_taken(name, tensor) for name, tensor in state.items()}
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
        state = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in stored.items()}
        if self._start in TAKEN_FROM_WEIGHTS:
            state = {name: self._without_taken(name, tensor) for name, tensor in state.items()}
        return state

    def load(self, folder: Path) -> None:
        """Attach a saved adapter; its configuration gives rank, alpha and layers."""
        if self._start in TAKEN_FROM_WEIGHTS:
            # As they were trained: with the plain adapters, sums would differ in their last bits.
            self.attach(seed=0)
        else:
            config = PeftConfig.from_pretrained(str(folder))
            if not self._holds(config):
                self._inject(config)
        self.restore(self.read(folder))

    def detach(self) -> None:
        """Take the adapters out, and give the weights back what was taken from them."""
        if ADAPTER in getattr(self._network, "peft_config", {}):
            with torch.no_grad():
                for path, layer in self._layers().items():
                    if path in self._whole:
                        layer.get_base_layer().weight.copy_(self._whole[path])
            self._network.unload_lora()
        self._whole = {}

    def _layers(self) -> dict[str, Any]:
        """The adapted layers by their paths."""
        return {
            path: module for path, module in self._network.named_modules() if isinstance(module, LoraLayer)
        }

    def _start_from_weights(self, start: str) -> None:
        """Take the adapters' first matrices from the weights, or set the adapters back to them."""
        if not self._whole:
            for path, layer in self._layers().items():
                self._whole[path] = take_from_weight(layer, ADAPTER, start)
            self._taken = self.state()
        self.restore(self._taken)

    def _beside_taken(self, name: str, tensor: Tensor) -> Tensor:
        """B A - B0 A0 as the product of two matrices (PiSSA, appendix C)."""
        first = self._taken[name]
        return torch.cat((tensor, first)) if "lora_A" in name else torch.cat((tensor, -first), dim=1)

    def _without_taken(self, name: str, tensor: Tensor) -> Tensor:
        rank = self._config.r
        return tensor[:rank].clone() if "lora_A" in name else tensor[:, :rank].clone()

    def _inject(self, config: PeftConfig) -> None:
        self.detach()
        self._network.requires_grad_(False)
        self._network.add_adapter(config, ADAPTER)

    def _holds(self, config: Any) -> bool:
        held = getattr(self._network, "peft_config", {}).get(ADAPTER)
        return held is not None and all(getattr(held, name) == getattr(config, name) for name in SHAPING)
