"""From the published key layout of Open-Sora v2.0 to the diffusers modules, tensor by tensor.

The published transformer comes in two layouts. The released one has separate Q, K and V projections and
rotates channel d together with D/2 + d (rotate-half). The FLUX layout fuses them (``qkv``, ``linear1``) and
rotates neighbouring channels 2d and 2d + 1 (interleaved). Attention only sees products of rotated queries and
keys, so permuting the channels of each head of Q, K and their norms turns the second into the first exactly.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lora_tta.models.packing import PATCH_SIZE

TRANSFORMER_CONFIG_KEYS = (
    "in_channels",
    "vec_in_dim",
    "context_in_dim",
    "hidden_size",
    "mlp_ratio",
    "num_heads",
    "depth",
    "depth_single_blocks",
    "axes_dim",
    "theta",
    "qkv_bias",
    "cond_embed",
)
VAE_CONFIG_KEYS = (
    "in_channels",
    "out_channels",
    "latent_channels",
    "layers_per_block",
    "block_out_channels",
    "norm_num_groups",
    "scale_factor",
    "time_compression_ratio",
    "spatial_compression_ratio",
    "mid_block_add_attention",
)

# The published sizes, for checkpoint files that come without a configuration.
PUBLISHED_TRANSFORMER_CONFIG: dict[str, Any] = {
    "in_channels": 64,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": False,
    "cond_embed": True,
    "fused_qkv": False,
    "use_liger_rope": True,
    "patch_size": 2,
}
PUBLISHED_VAE_CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 16,
    "layers_per_block": 2,
    "block_out_channels": [128, 256, 512, 512],
    "norm_num_groups": 32,
    "scale_factor": 0.476986,
    "time_compression_ratio": 4,
    "spatial_compression_ratio": 8,
    "mid_block_add_attention": True,
}

# Published module name -> ours, for tensors that only change their name. {n} stands for a block number.
RENAMED_MODULES = {
    "img_in": "x_embedder",
    "cond_in": "condition_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "double_blocks.{n}.img_mod.lin": "transformer_blocks.{n}.norm1.linear",
    "double_blocks.{n}.txt_mod.lin": "transformer_blocks.{n}.norm1_context.linear",
    "double_blocks.{n}.img_attn.v_proj": "transformer_blocks.{n}.attn.to_v",
    "double_blocks.{n}.img_attn.proj": "transformer_blocks.{n}.attn.to_out.0",
    "double_blocks.{n}.txt_attn.v_proj": "transformer_blocks.{n}.attn.add_v_proj",
    "double_blocks.{n}.txt_attn.proj": "transformer_blocks.{n}.attn.to_add_out",
    "double_blocks.{n}.img_mlp.0": "transformer_blocks.{n}.ff.net.0.proj",
    "double_blocks.{n}.img_mlp.2": "transformer_blocks.{n}.ff.net.2",
    "double_blocks.{n}.txt_mlp.0": "transformer_blocks.{n}.ff_context.net.0.proj",
    "double_blocks.{n}.txt_mlp.2": "transformer_blocks.{n}.ff_context.net.2",
    "single_blocks.{n}.modulation.lin": "single_transformer_blocks.{n}.norm.linear",
}
# Likewise, for those whose head channels are also permuted when the checkpoint's RoPE is interleaved.
ROTARY_MODULES = {
    "double_blocks.{n}.img_attn.q_proj": "transformer_blocks.{n}.attn.to_q",
    "double_blocks.{n}.img_attn.k_proj": "transformer_blocks.{n}.attn.to_k",
    "double_blocks.{n}.img_attn.norm.query_norm": "transformer_blocks.{n}.attn.norm_q",
    "double_blocks.{n}.img_attn.norm.key_norm": "transformer_blocks.{n}.attn.norm_k",
    "double_blocks.{n}.txt_attn.q_proj": "transformer_blocks.{n}.attn.add_q_proj",
    "double_blocks.{n}.txt_attn.k_proj": "transformer_blocks.{n}.attn.add_k_proj",
    "double_blocks.{n}.txt_attn.norm.query_norm": "transformer_blocks.{n}.attn.norm_added_q",
    "double_blocks.{n}.txt_attn.norm.key_norm": "transformer_blocks.{n}.attn.norm_added_k",
    "single_blocks.{n}.q_proj": "single_transformer_blocks.{n}.attn.to_q",
    "single_blocks.{n}.k_proj": "single_transformer_blocks.{n}.attn.to_k",
    "single_blocks.{n}.norm.query_norm": "single_transformer_blocks.{n}.attn.norm_q",
    "single_blocks.{n}.norm.key_norm": "single_transformer_blocks.{n}.attn.norm_k",
}


def transformer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``OpenSoraTransformer3DModel`` from a published transformer configuration.

    Raises:
        ValueError: if a size is missing or the configuration asks for something the model does not have.
    """
    _require_keys("transformer", config, TRANSFORMER_CONFIG_KEYS)
    if config.get("guidance_embed"):
        raise ValueError("transformer configuration: guidance_embed is not part of Open-Sora v2.0")
    if config.get("patch_size", PATCH_SIZE) != PATCH_SIZE:
        raise ValueError(f"transformer configuration: patch_size must be {PATCH_SIZE}")
    return {
        "in_channels": config["in_channels"],
        "condition_channels": config["in_channels"] + PATCH_SIZE**2 if config["cond_embed"] else None,
        "num_layers": config["depth"],
        "num_single_layers": config["depth_single_blocks"],
        "attention_head_dim": config["hidden_size"] // config["num_heads"],
        "num_attention_heads": config["num_heads"],
        "mlp_ratio": config["mlp_ratio"],
        "joint_attention_dim": config["context_in_dim"],
        "pooled_projection_dim": config["vec_in_dim"],
        "axes_dims_rope": tuple(config["axes_dim"]),
        "rope_theta": config["theta"],
        "qkv_bias": config["qkv_bias"],
    }


def vae_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``AutoencoderKLHunyuanVideo`` from a published VAE configuration.

    Raises:
        ValueError: if a size is missing.
    """
    _require_keys("VAE", config, VAE_CONFIG_KEYS)
    return {
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "latent_channels": config["latent_channels"],
        "layers_per_block": config["layers_per_block"],
        "block_out_channels": tuple(config["block_out_channels"]),
        "norm_num_groups": config["norm_num_groups"],
        "scaling_factor": config["scale_factor"],
        "temporal_compression_ratio": config["time_compression_ratio"],
        "spatial_compression_ratio": config["spatial_compression_ratio"],
        "mid_block_add_attention": config["mid_block_add_attention"],
    }


class TransformerTensorConverter:
    """Turns one published transformer tensor into the diffusers tensors it holds.

    Args:
        config: the published transformer configuration.
        keys: all keys of the checkpoint; they tell the fused from the separate layout. Fused checkpoints have
            interleaved RoPE; separate ones rotate-half, unless the configuration says
            ``use_liger_rope: false``.
    """

    def __init__(self, config: Mapping[str, Any], keys: Iterable[str]) -> None:
        self.config = transformer_config(config)
        self.dim = self.config["num_attention_heads"] * self.config["attention_head_dim"]
        fused = any(re.search(r"\.(qkv|linear1)\.", key) for key in keys)
        self.interleaved_rope = fused or config.get("use_liger_rope") is False

    def __call__(self, key: str, tensor: Tensor) -> dict[str, Tensor]:
        """New keys and tensors for a published key; raises ValueError for a key of neither layout."""
        pattern, block, parameter = _split_key(key)
        parts = self._convert(pattern, parameter, tensor)
        if parts is None:
            raise ValueError(f"unexpected key {key}")
        return {f"{module.format(n=block)}.{name}": part for (module, name), part in parts.items()}

    def _convert(self, pattern: str, parameter: str, tensor: Tensor) -> dict[tuple[str, str], Tensor] | None:
        if pattern in RENAMED_MODULES:
            return {(RENAMED_MODULES[pattern], parameter): tensor}
        if pattern in ROTARY_MODULES:
            name = "weight" if parameter == "scale" else parameter
            return {(ROTARY_MODULES[pattern], name): self._to_rotate_half(tensor)}
        if pattern == "final_layer.adaLN_modulation.1":
            # Published: shift, scale. diffusers' AdaLayerNormContinuous: scale, shift.
            shift, scale = tensor.chunk(2)
            return {("norm_out.linear", parameter): torch.cat((scale, shift))}
        if match := re.fullmatch(r"double_blocks\.\{n\}\.(img|txt)_attn\.qkv", pattern):
            prefix, names = "transformer_blocks.{n}.attn.", ("to_q", "to_k", "to_v")
            if match[1] == "txt":
                names = ("add_q_proj", "add_k_proj", "add_v_proj")
            query, key, value = tensor.chunk(3)
            parts = (self._to_rotate_half(query), self._to_rotate_half(key), value)
            return {(prefix + name, parameter): part for name, part in zip(names, parts, strict=True)}
        return self._convert_single_block(pattern, parameter, tensor)

    def _convert_single_block(
        self, pattern: str, parameter: str, tensor: Tensor
    ) -> dict[tuple[str, str], Tensor] | None:
        block, dim = "single_transformer_blocks.{n}.", self.dim
        if pattern == "single_blocks.{n}.v_mlp":
            return {
                (block + "attn.to_v", parameter): tensor[:dim],
                (block + "proj_mlp", parameter): tensor[dim:],
            }
        if pattern == "single_blocks.{n}.linear1":
            return {
                (block + "attn.to_q", parameter): self._to_rotate_half(tensor[:dim]),
                (block + "attn.to_k", parameter): self._to_rotate_half(tensor[dim : 2 * dim]),
                (block + "attn.to_v", parameter): tensor[2 * dim : 3 * dim],
                (block + "proj_mlp", parameter): tensor[3 * dim :],
            }
        if pattern == "single_blocks.{n}.linear2" and parameter == "weight":
            return {
                (block + "attn.to_out.0", "weight"): tensor[:, :dim],
                (block + "proj_mlp_out", "weight"): tensor[:, dim:],
            }
        if pattern == "single_blocks.{n}.linear2":
            return {(block + "attn.to_out.0", "bias"): tensor}
        return None

    def _to_rotate_half(self, tensor: Tensor) -> Tensor:
        """Move channel 2d of each head to d and 2d + 1 to D/2 + d, along the first axis (H * D or D)."""
        if not self.interleaved_rope:
            return tensor
        pairs = tensor.unflatten(0, (-1, self.config["attention_head_dim"] // 2, 2))
        return pairs.transpose(1, 2).flatten(0, 2)


def check_converted_keys(expected: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Compare converted keys and shapes with a model's.

    Raises:
        ValueError: naming (up to ten of) the missing keys, unexpected keys or wrong shapes.
    """
    problems = {
        "missing": [key for key in expected if key not in shapes],
        "unexpected": [key for key in shapes if key not in expected],
        "of the wrong shape": [
            f"{key} {tuple(shapes[key])} instead of {tuple(expected[key].shape)}"
            for key in expected
            if key in shapes and shapes[key] != expected[key].shape
        ],
    }
    found = [f"{kind}: {_shorten(names)}" for kind, names in problems.items() if names]
    if found:
        raise ValueError("the checkpoint does not fit its configuration; tensors " + "; ".join(found))


def _split_key(key: str) -> tuple[str, str | None, str]:
    """Split a published key into its module name with {n} for the block number, the number, the parameter."""
    module, _, parameter = key.rpartition(".")
    if match := re.fullmatch(r"(double_blocks|single_blocks)\.(\d+)\.(.+)", module):
        return f"{match[1]}.{{n}}.{match[3]}", match[2], parameter
    return module, None, parameter


def _require_keys(what: str, config: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if key not in config]
    if missing:
        raise ValueError(f"{what} configuration lacks {', '.join(missing)}")


def _shorten(names: list[str], limit: int = 10) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
