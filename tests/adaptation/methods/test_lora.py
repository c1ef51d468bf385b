import pytest
import torch
from peft import PeftModel

from lora_tta.adaptation.adapter_files import CONFIG_NAME, WEIGHTS_NAME, export_adapter
from lora_tta.adaptation.methods.lora import (
    ADAPTER,
    adapter_state,
    fresh_adapter,
    load_adapter,
    remove_adapter,
    save_adapter,
)
from lora_tta.adaptation.objective import FlowMatchingObjective


@pytest.fixture
def transformer(pipeline):
    return pipeline.transformer


@pytest.fixture
def output(transformer, conditioning, params):
    """The loss of one fixed draw: a number that any change of the model changes."""
    objective = FlowMatchingObjective(conditioning, params.adaptation, seed=0)
    return lambda model=transformer: objective.loss(model, 0).item()


def randomised(transformer, params):
    parameters = fresh_adapter(transformer, 4, params.adaptation, seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 10)


def test_a_fresh_adapter_changes_nothing_and_alone_is_trainable(transformer, params, output):
    before = output()
    parameters = fresh_adapter(transformer, 4, params.adaptation, seed=0)
    assert output() == before
    trainable = {name for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    assert len(trainable) == len(parameters) > 0
    assert all("lora_" in name for name in trainable)


def test_the_adapter_depends_on_the_seed_alone(transformer, params):
    fresh_adapter(transformer, 4, params.adaptation, seed=0)
    first = adapter_state(transformer)
    randomised(transformer, params)
    torch.rand(7)
    fresh_adapter(transformer, 4, params.adaptation, seed=0)
    again = adapter_state(transformer)
    assert all(torch.equal(first[name], again[name]) for name in first)
    fresh_adapter(transformer, 4, params.adaptation, seed=1)
    other = adapter_state(transformer)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_reset_keeps_the_modules_and_a_new_rank_replaces_them(transformer, params):
    first = fresh_adapter(transformer, 4, params.adaptation, seed=0)
    again = fresh_adapter(transformer, 4, params.adaptation, seed=1)
    assert all(one is other for one, other in zip(first, again, strict=True))
    fresh_adapter(transformer, 2, params.adaptation, seed=1)
    assert transformer.peft_config[ADAPTER].r == 2
    assert transformer.peft_config[ADAPTER].lora_alpha == 4


def test_removing_the_adapter_restores_the_base_model(transformer, params, output):
    before = output()
    randomised(transformer, params)
    assert output() != before
    remove_adapter(transformer)
    assert output() == before
    remove_adapter(transformer)


@pytest.mark.parametrize("targets", [["attention"], ["mlp"], ["attention", "mlp"]])
def test_a_saved_adapter_loads_with_peft_with_diffusers_and_here(
    transformer, params, output, tmp_path, targets
):
    params = params.model_copy(
        update={"adaptation": params.adaptation.model_copy(update={"targets": targets})}
    )
    base = output()
    randomised(transformer, params)
    adapted = output()
    save_adapter(tmp_path / "adapter", transformer.peft_config[ADAPTER], adapter_state(transformer))

    remove_adapter(transformer)
    load_adapter(transformer, tmp_path / "adapter")
    assert output() == adapted

    remove_adapter(transformer)
    transformer.load_lora_adapter(
        tmp_path / "adapter", weight_name=WEIGHTS_NAME, prefix="base_model.model", adapter_name="loaded"
    )
    assert output() == pytest.approx(adapted, abs=1e-6)
    transformer.unload_lora()
    assert output() == base

    assert output(PeftModel.from_pretrained(transformer, tmp_path / "adapter")) == pytest.approx(
        adapted, abs=1e-6
    )


def test_an_export_holds_the_adapter_and_nothing_else(transformer, params, tmp_path):
    randomised(transformer, params)
    save_adapter(tmp_path / "a", transformer.peft_config[ADAPTER], adapter_state(transformer))
    (tmp_path / "a" / "optimizer").write_text("state")
    export_adapter(tmp_path / "a", tmp_path / "b")
    assert {path.name for path in (tmp_path / "b").iterdir()} == {CONFIG_NAME, WEIGHTS_NAME}
