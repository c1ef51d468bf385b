import re

import pytest
import torch
from published_weights import convert_transformer

from lora_tta.models.conversion.tensors import PUBLISHED_TRANSFORMER_CONFIG, transformer_config, vae_config


def interleave(tensor, head_dim):
    """Undo rotate-half by the definition: channel d of a head goes to 2d, channel D/2 + d to 2d + 1."""
    heads = tensor.reshape(-1, head_dim, *tensor.shape[1:])
    interleaved = torch.empty_like(heads)
    interleaved[:, 0::2], interleaved[:, 1::2] = heads[:, : head_dim // 2], heads[:, head_dim // 2 :]
    return interleaved.reshape(tensor.shape)


def fuse(state_dict, head_dim):
    """A copy of a separate checkpoint in the FLUX layout, with interleaved RoPE."""
    fused = dict(state_dict)
    for name in state_dict:
        if name.endswith(("query_norm.scale", "key_norm.scale")):
            fused[name] = interleave(state_dict[name], head_dim)
        if ".q_proj." not in name:
            continue
        query = interleave(fused.pop(name), head_dim)
        key = interleave(fused.pop(name.replace("q_proj", "k_proj")), head_dim)
        if name.startswith("double"):
            value = fused.pop(name.replace("q_proj", "v_proj"))
            fused[name.replace("q_proj", "qkv")] = torch.cat((query, key, value))
        else:
            value_and_mlp = fused.pop(name.replace("q_proj", "v_mlp"))
            fused[name.replace("q_proj", "linear1")] = torch.cat((query, key, value_and_mlp))
    return fused


def test_fused_and_separate_copies_agree(mmdit_state_dict, mmdit_config, transformer_inputs, relative_error):
    fused_state_dict = fuse(mmdit_state_dict, head_dim=32)
    assert "double_blocks.0.img_attn.qkv.weight" in fused_state_dict
    assert not any(".q_proj." in name for name in fused_state_dict)
    separate = convert_transformer(mmdit_state_dict, mmdit_config)
    fused = convert_transformer(fused_state_dict, mmdit_config | {"fused_qkv": True, "use_liger_rope": False})
    with torch.no_grad():
        expected = separate(**transformer_inputs).sample
        assert relative_error(fused(**transformer_inputs).sample, expected) < 1e-6
    parameters = separate.state_dict()
    assert all(torch.equal(value, parameters[name]) for name, value in fused.state_dict().items())


def test_separate_checkpoints_with_interleaved_rope_are_permuted(
    mmdit_state_dict, mmdit_config, transformer_inputs
):
    interleaved = {
        name: interleave(value, 32)
        if any(part in name for part in ("q_proj", "k_proj", "query_norm", "key_norm"))
        else value
        for name, value in mmdit_state_dict.items()
    }
    model = convert_transformer(interleaved, mmdit_config | {"use_liger_rope": False})
    expected = convert_transformer(mmdit_state_dict, mmdit_config)
    with torch.no_grad():
        assert torch.equal(model(**transformer_inputs).sample, expected(**transformer_inputs).sample)


def test_bias_of_qkv_is_optional_in_double_stream_blocks(
    mmdit_state_dict, mmdit_config, transformer_inputs, relative_error
):
    biases = [name for name in mmdit_state_dict if re.match(r"double_blocks.*_attn\.[qkv]_proj\.bias", name)]
    assert len(biases) == 12
    zero = {name: torch.zeros(64) for name in biases}
    expected = convert_transformer(mmdit_state_dict | zero, mmdit_config)
    without = {name: value for name, value in mmdit_state_dict.items() if name not in biases}
    model = convert_transformer(without, mmdit_config | {"qkv_bias": False})
    with torch.no_grad():
        expected = expected(**transformer_inputs).sample
        assert relative_error(model(**transformer_inputs).sample, expected) < 1e-6


def test_conversion_keeps_the_dtype(mmdit_state_dict, mmdit_config):
    half = {name: value.bfloat16() for name, value in mmdit_state_dict.items()}
    model = convert_transformer(half, mmdit_config)
    assert {value.dtype for value in model.state_dict().values()} == {torch.bfloat16}


def test_every_published_parameter_is_used_once(mmdit_state_dict, mmdit_config):
    model = convert_transformer(mmdit_state_dict, mmdit_config)
    assert model.num_parameters() == sum(value.numel() for value in mmdit_state_dict.values())


@pytest.mark.parametrize(
    ("key", "new_key", "message"),
    [
        ("img_in.bias", None, "missing: x_embedder.bias"),
        (None, "guidance_in.in_layer.bias", "unexpected key guidance_in.in_layer.bias"),
        ("double_blocks.1.img_mod.lin.bias", "double_blocks.2.img_mod.lin.bias", "missing: .*unexpected: "),
    ],
)
def test_keys_that_do_not_fit_are_named(mmdit_state_dict, mmdit_config, key, new_key, message):
    value = torch.zeros(384) if key is None else mmdit_state_dict.pop(key)
    if new_key is not None:
        mmdit_state_dict[new_key] = value
    with pytest.raises(ValueError, match=message):
        convert_transformer(mmdit_state_dict, mmdit_config)


def test_wrong_shapes_are_named(mmdit_state_dict, mmdit_config):
    with pytest.raises(ValueError, match=r"context_embedder.weight \(64, 48\) instead of \(64, 40\)"):
        convert_transformer(mmdit_state_dict, mmdit_config | {"context_in_dim": 40})


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"guidance_embed": True}, "guidance_embed"), ({"patch_size": 1}, "patch_size must be 2")],
)
def test_unsupported_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        transformer_config(PUBLISHED_TRANSFORMER_CONFIG | changes)


def test_missing_configuration_entries_are_named(mmdit_state_dict, mmdit_config):
    mmdit_config = {name: value for name, value in mmdit_config.items() if name not in ("num_heads", "depth")}
    with pytest.raises(ValueError, match="lacks num_heads, depth"):
        convert_transformer(mmdit_state_dict, mmdit_config)
    with pytest.raises(ValueError, match="VAE configuration lacks in_channels"):
        vae_config({})


def test_the_vae_scales_its_latents_as_published(vae):
    assert vae.config.scaling_factor == 0.476986
