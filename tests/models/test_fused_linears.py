"""Several projections in one product give what each gives alone."""

import pytest
import torch
from peft import LoraConfig
from torch.utils._python_dispatch import TorchDispatchMode

from lora_tta.models import OpenSoraTransformer3DModel
from lora_tta.models.fused_linears import StackedLinears

NAMES = ["to_q", "to_k", "to_v"]


@pytest.fixture
def attention(transformer):
    return transformer.transformer_blocks[0].attn


def layers_of(attention):
    return [getattr(attention, name) for name in NAMES]


class CountProducts(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default)
        return func(*args, **(kwargs or {}))


def put_in_adapter(transformer: OpenSoraTransformer3DModel, targets: list[str], **options) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights=False, **options)
    transformer.add_adapter(config)


def assert_together_is_each_alone(attention):
    stacked = attention.to_qkv or StackedLinears(layers_of(attention))
    hidden_states = torch.randn(2, 5, attention.to_q.in_features)
    together = stacked(hidden_states, layers_of(attention))
    for output, layer in zip(together.whole().chunk(3, dim=-1), layers_of(attention), strict=True):
        torch.testing.assert_close(output, layer(hidden_states), atol=1e-5, rtol=1e-5)


def test_without_adapters(attention):
    assert_together_is_each_alone(attention)


@pytest.mark.parametrize("targets", [NAMES, ["to_q"], ["to_q", "to_v"]])
def test_with_adapters_on_all_or_some(transformer, attention, targets):
    put_in_adapter(transformer, targets)
    assert_together_is_each_alone(attention)


def test_with_two_active_adapters(transformer, attention):
    put_in_adapter(transformer, NAMES)
    transformer.add_adapter(LoraConfig(r=2, target_modules=NAMES, init_lora_weights=False), "other")
    transformer.set_adapters(["default", "other"])
    assert_together_is_each_alone(attention)


def test_with_adapters_of_different_ranks(transformer, attention):
    put_in_adapter(transformer, NAMES, rank_pattern={"to_v": 5})
    assert_together_is_each_alone(attention)


def test_with_dora(transformer, attention):
    put_in_adapter(transformer, NAMES, use_dora=True)
    assert_together_is_each_alone(attention)


def test_with_disabled_and_with_merged_adapters(transformer, attention):
    put_in_adapter(transformer, NAMES)
    transformer.fuse_projections()
    transformer.disable_adapters()
    assert_together_is_each_alone(attention)
    transformer.enable_adapters()
    for layer in layers_of(attention):
        layer.merge()
    assert_together_is_each_alone(attention)


@pytest.mark.parametrize(("targets", "products"), [([], 1), (NAMES, 2), (["to_q"], 3 + 2)])
def test_layers_with_the_same_adapters_share_their_products(transformer, attention, targets, products):
    if targets:
        put_in_adapter(transformer, targets)
    stacked = StackedLinears(layers_of(attention))
    hidden_states = torch.randn(5, attention.to_q.in_features)
    with CountProducts() as counter:
        stacked(hidden_states, layers_of(attention))
    assert counter.count == products


def test_gradients_are_those_of_each_alone(transformer, attention):
    put_in_adapter(transformer, NAMES)
    hidden_states = torch.randn(2, 5, attention.to_q.in_features, requires_grad=True)
    weights = [hidden_states, *(weight for weight in attention.parameters() if weight.requires_grad)]

    def gradients(outputs):
        loss = sum(output.square().sum() * (index + 1) for index, output in enumerate(outputs))
        return torch.autograd.grad(loss, weights, allow_unused=True)

    alone = gradients([layer(hidden_states) for layer in layers_of(attention)])
    stacked = StackedLinears(layers_of(attention))
    together = gradients(stacked(hidden_states, layers_of(attention)).whole().chunk(3, dim=-1))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_adapters_on_layers_of_different_widths(transformer, transformer_inputs):
    put_in_adapter(transformer, [f"{norm}.linear" for norm in ("norm1", "norm1_context", "norm", "norm_out")])
    expected = transformer(**transformer_inputs).sample
    transformer.fuse_projections()
    torch.testing.assert_close(transformer(**transformer_inputs).sample, expected, atol=1e-5, rtol=1e-5)


def test_the_stack_stores_nothing_twice_and_is_not_saved(transformer, attention):
    names = set(transformer.state_dict())
    weights = [layer.weight.clone() for layer in layers_of(attention)]
    transformer.fuse_projections()
    assert set(transformer.state_dict()) == names
    stacked = attention.to_qkv.weight
    assert all(
        layer.weight.untyped_storage().data_ptr() == stacked.data_ptr() for layer in layers_of(attention)
    )
    assert torch.equal(stacked, torch.cat(weights))


def test_a_fused_model_is_saved_and_predicts_the_same(transformer, transformer_inputs, tmp_path):
    expected = transformer(**transformer_inputs).sample
    transformer.fuse_projections()
    torch.testing.assert_close(transformer(**transformer_inputs).sample, expected, atol=1e-5, rtol=1e-5)
    transformer.save_pretrained(tmp_path)
    loaded = OpenSoraTransformer3DModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in transformer.state_dict().items())
