"""LoRA adapters on the transformer, through PEFT."""

import peft
import pytest
import torch
from peft import LoraConfig

from lora_tta.models.lora_targets import ATTENTION_LAYERS, MLP_LAYERS, lora_target_modules


def adapted_layers(transformer):
    return {name for name, module in transformer.named_modules() if hasattr(module, "lora_A")}


def add_trained_adapter(transformer, target_modules):
    """Add an adapter whose B matrices are not zero, as after training."""
    transformer.add_adapter(
        LoraConfig(r=4, lora_alpha=8, target_modules=target_modules, init_lora_weights=False)
    )


def test_attention_targets_cover_both_block_kinds(transformer):
    add_trained_adapter(transformer, lora_target_modules())
    double = {"to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"}
    single = {"to_q", "to_k", "to_v", "to_out.0"}
    expected = {f"transformer_blocks.{n}.attn.{layer}" for n in range(2) for layer in double}
    expected |= {f"single_transformer_blocks.{n}.attn.{layer}" for n in range(2) for layer in single}
    assert adapted_layers(transformer) == expected


def test_mlp_targets_cover_both_block_kinds(transformer):
    add_trained_adapter(transformer, lora_target_modules(attention=False, mlp=True))
    double = {"ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"}
    expected = {f"transformer_blocks.{n}.{layer}" for n in range(2) for layer in double}
    expected |= {f"single_transformer_blocks.{n}.{x}" for n in range(2) for x in ("proj_mlp", "proj_mlp_out")}
    assert adapted_layers(transformer) == expected


@pytest.mark.parametrize("layer", ATTENTION_LAYERS + MLP_LAYERS)
def test_a_name_selects_only_that_layer(transformer, layer):
    add_trained_adapter(transformer, [layer])
    names = adapted_layers(transformer)
    assert names
    assert all(name.endswith(f".{layer}") for name in names)


def test_all_targets_together_are_all_linear_layers_of_the_blocks(transformer):
    linear = {
        name
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and "_blocks." in name and "norm" not in name
    }
    add_trained_adapter(transformer, lora_target_modules(mlp=True))
    assert adapted_layers(transformer) == linear


def test_nothing_to_adapt_is_refused():
    with pytest.raises(ValueError, match="choose attention or mlp"):
        lora_target_modules(attention=False)


def test_only_adapters_get_gradients_and_base_weights_stay(transformer, transformer_inputs):
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    transformer.requires_grad_(False)
    add_trained_adapter(transformer, lora_target_modules())
    optimizer = torch.optim.AdamW([p for p in transformer.parameters() if p.requires_grad], lr=1e-2)
    transformer(**transformer_inputs).sample.square().mean().backward()
    assert {name for name, p in transformer.named_parameters() if p.grad is not None} == {
        name for name, _ in transformer.named_parameters() if "lora_" in name
    }
    optimizer.step()
    transformer.unload_lora()
    after = transformer.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_saved_adapter_loads_back(transformer, transformer_inputs, tmp_path):
    with torch.no_grad():
        base = transformer(**transformer_inputs).sample
        add_trained_adapter(transformer, lora_target_modules())
        adapted = transformer(**transformer_inputs).sample
        transformer.save_lora_adapter(tmp_path)
        transformer.unload_lora()
        assert torch.equal(transformer(**transformer_inputs).sample, base)
        transformer.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
        assert torch.equal(transformer(**transformer_inputs).sample, adapted)
    assert not torch.allclose(adapted, base)


def test_peft_adapter_folder_loads_with_peft_and_with_diffusers(transformer, transformer_inputs, tmp_path):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=lora_target_modules(), init_lora_weights=False)
    model = peft.get_peft_model(transformer, config)
    with torch.no_grad():
        adapted = model(**transformer_inputs).sample
        model.save_pretrained(tmp_path)
        transformer = model.unload()

        with_peft = peft.PeftModel.from_pretrained(transformer, tmp_path)
        assert torch.equal(with_peft(**transformer_inputs).sample, adapted)
        transformer = with_peft.unload()

        transformer.load_lora_adapter(
            peft.load_peft_weights(tmp_path),
            prefix="base_model.model",
            metadata={f"base_model.model.{name}": value for name, value in config.to_dict().items()},
        )
        assert torch.equal(transformer(**transformer_inputs).sample, adapted)


def test_merging_and_unmerging_keep_the_output(transformer, transformer_inputs, relative_error):
    with torch.no_grad():
        base = transformer(**transformer_inputs).sample
        add_trained_adapter(transformer, lora_target_modules(mlp=True))
        adapted = transformer(**transformer_inputs).sample
        transformer.fuse_lora()
        merged = transformer(**transformer_inputs).sample
        transformer.unfuse_lora()
        unmerged = transformer(**transformer_inputs).sample
        transformer.disable_adapters()
        disabled = transformer(**transformer_inputs).sample
    assert relative_error(merged, adapted) < 1e-5
    assert relative_error(unmerged, adapted) < 1e-5
    assert relative_error(disabled, base) < 1e-5
    assert relative_error(adapted, base) > 1e-2
