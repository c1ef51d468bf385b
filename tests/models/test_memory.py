import pytest
import torch
from lora_adapters import lora
from safetensors.torch import save_file
from tiny_model import TEXT_WIDTH, tiny_transformer

from lora_tta.errors import UserError
from lora_tta.models import memory


def test_parameters_are_counted_from_headers(tmp_path):
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    save_file({"x": torch.zeros(3, 4), "scalar": torch.tensor(1.0)}, files[0])
    save_file({"y": torch.zeros(5, dtype=torch.bfloat16)}, files[1])
    assert memory.count_parameters(files) == 18


def test_models_that_fit_pass():
    memory.require_memory(1000, torch.float32, "cpu", what="the model")


def test_models_that_do_not_fit_are_refused_with_figures(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 16 * 2**30)
    message = (
        r"the model needs 44\.3 GiB for 11\.89 B parameters in float32, but cpu has 16\.0 GiB available: "
        "load it in bfloat16, or use a GPU"
    )
    with pytest.raises(UserError, match=message):
        memory.require_memory(11_890_000_000, torch.float32, "cpu", what="the model")


def test_cpu_memory_is_what_the_system_reports():
    assert 0 < memory.available_memory("cpu") < 2**50


def kept_bytes(transformer, inputs):
    """Bytes of the tensors, apart from weights, that a forward pass keeps for the backward pass."""
    weights = {weight.untyped_storage().data_ptr() for weight in transformer.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = transformer(**inputs).sample
    assert output.requires_grad
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("blocks", [(4, 0), (0, 4)], ids=["double", "single"])
@pytest.mark.parametrize("targets", [["attention"], ["attention", "mlp"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_of_a_training_step_covers_what_it_keeps(blocks, targets, dtype):
    num_tokens, text_length = 300, 60
    # Wide enough that a rank of 8 is little beside the width, as in the published model.
    transformer = tiny_transformer(
        num_layers=blocks[0],
        num_single_layers=blocks[1],
        num_attention_heads=8,
        attention_head_dim=64,
        axes_dims_rope=(16, 24, 24),
    ).to(dtype)
    lora(transformer, rank=8, targets=targets).attach(seed=0)
    inputs = {
        "hidden_states": torch.randn(1, num_tokens, 64, dtype=dtype),
        "img_ids": torch.zeros(num_tokens, 3),
        "encoder_hidden_states": torch.randn(1, text_length, TEXT_WIDTH, dtype=dtype),
        "txt_ids": torch.zeros(text_length, 3),
        "timestep": torch.tensor([0.5]),
        "pooled_projections": torch.randn(1, TEXT_WIDTH, dtype=dtype),
        "condition": torch.randn(1, num_tokens, 68, dtype=dtype),
    }
    estimate = memory.activation_bytes(transformer, num_tokens + text_length, "mlp" in targets)
    assert 0.6 * estimate < kept_bytes(transformer, inputs) < estimate
