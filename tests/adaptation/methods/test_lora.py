import json
import os
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError

from lora_tta.adaptation.methods import MethodSlot
from lora_tta.adaptation.methods.lora import ADAPTER, WEIGHTS_NAME
from lora_tta.adaptation.objective import AdaptationLoss
from lora_tta.errors import UserError


@pytest.fixture
def network(backbone):
    return backbone.network


@pytest.fixture
def slot(backbone):
    return MethodSlot(backbone)


@pytest.fixture
def lora(slot, params):
    """Rank 4, or other settings, in the model."""
    return lambda **settings: slot.put(params.adaptation.at({"rank": 4, **settings}).method)


@pytest.fixture
def output(backbone, conditioning, params):
    """The loss of one fixed draw: a number that any change of the model changes."""
    return lambda: AdaptationLoss(backbone, conditioning, params.adaptation, seed=0).at(0).item()


def randomise(method):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in method.attach(seed=0):
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 10)


def test_a_fresh_adapter_changes_nothing_and_alone_is_trainable(network, lora, output):
    before = output()
    parameters = lora().attach(seed=0)
    assert output() == before
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert len(trainable) == len(parameters) > 0
    assert all("lora_" in name for name in trainable)


def test_the_adapter_depends_on_the_seed_alone(lora):
    method = lora()
    method.attach(seed=0)
    first = method.state()
    randomise(method)
    torch.rand(7)
    method.attach(seed=0)
    again = method.state()
    assert all(torch.equal(first[name], again[name]) for name in first)
    method.attach(seed=1)
    other = method.state()
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_reset_keeps_the_modules_and_a_new_rank_replaces_them(network, lora):
    first = lora().attach(seed=0)
    again = lora().attach(seed=1)
    assert all(one is other for one, other in zip(first, again, strict=True))
    lora(rank=2).attach(seed=1)
    assert network.peft_config[ADAPTER].r == 2
    assert network.peft_config[ADAPTER].lora_alpha == 4


def test_clearing_the_slot_restores_the_base_model(slot, lora, output):
    before = output()
    randomise(lora())
    assert output() != before
    slot.clear()
    assert output() == before
    slot.clear()


@pytest.mark.parametrize("targets", [["attention"], ["mlp"], ["attention", "mlp"]])
def test_a_saved_adapter_loads_with_peft_with_diffusers_and_here(
    backbone, network, slot, params, output, tmp_path, targets, monkeypatch
):
    settings = params.adaptation.method.model_copy(update={"rank": 4, "targets": targets})
    method = slot.put(settings)
    base = output()
    randomise(method)
    adapted = output()
    method.save(tmp_path / "adapter", method.state())

    slot.clear()
    slot.put(settings).load(tmp_path / "adapter")
    assert output() == adapted

    slot.clear()
    network.load_lora_adapter(
        tmp_path / "adapter", weight_name=WEIGHTS_NAME, prefix="base_model.model", adapter_name="loaded"
    )
    assert output() == pytest.approx(adapted, abs=1e-6)
    network.unload_lora()
    assert output() == base

    monkeypatch.setattr(type(backbone), "network", PeftModel.from_pretrained(network, tmp_path / "adapter"))
    assert output() == pytest.approx(adapted, abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": start, "use_rslora": scaled}
        for start in ("pissa", "olora")
        for scaled in (False, True)
    ]
    + [{"init_lora_weights": "orthogonal"}],
    ids=str,
)
def test_adapters_that_start_at_the_weights_are_saved_as_plain_ones(
    backbone, network, slot, lora, output, tmp_path, settings, monkeypatch
):
    base = output()
    method = lora(**settings)
    randomise(method)
    adapted = output()
    method.save(tmp_path, method.state())
    slot.clear()
    assert output() == base
    network.load_lora_adapter(
        tmp_path, weight_name=WEIGHTS_NAME, prefix="base_model.model", adapter_name="loaded"
    )
    assert output() == pytest.approx(adapted, rel=1e-5)
    assert adapted != pytest.approx(base, rel=1e-4)
    network.unload_lora()
    monkeypatch.setattr(type(backbone), "network", PeftModel.from_pretrained(network, tmp_path))
    assert output() == pytest.approx(adapted, rel=1e-5)


def test_pissa_starts_at_the_largest_singular_values(network, lora):
    name = "transformer_blocks.0.attn.to_q"
    weight = network.get_submodule(name).weight.detach().clone()
    method = lora(init_lora_weights="pissa")
    method.attach(seed=0)
    state = method.state()
    part = 2 * state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
    largest = torch.linalg.svdvals(weight)[:4]
    torch.testing.assert_close(torch.linalg.svdvals(part)[:4], largest)
    torch.testing.assert_close(network.get_submodule(name).base_layer.weight + part, weight)


def test_what_changes_the_networks_weights_is_refused_where_these_are_fused(network, lora):
    network.fuse_projections()
    with pytest.raises(UserError, match=r"init_lora_weights pissa changes .* set model\.accelerate to false"):
        lora(init_lora_weights="pissa")
    lora(init_lora_weights="gaussian").attach(seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_lora_weights": "pissa", "use_dora": True}, "pissa does not go with use_dora"),
        ({"init_lora_weights": "orthogonal", "rank": 3}, "takes an even rank, and rank is 3"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights"),
    ],
)
def test_a_start_that_does_not_go_with_the_rest_is_refused(lora, settings, message):
    with pytest.raises(ValidationError, match=message):
        lora(**settings)


SAVE = """
import os, sys
from pathlib import Path
import torch
from lora_tta.adaptation.methods import MethodSlot
from lora_tta.backbones import load_backbone
from lora_tta.config import Params

params = Params.model_validate_json(sys.argv[1])
method = MethodSlot(load_backbone(params.model, torch.device("cpu"))).put(params.adaptation.method)
method.attach(seed=0)
method.save(Path(sys.argv[2]), method.state())
os._exit(0)  # without taking apart what was imported
"""


@pytest.mark.slow(15)
def test_equal_adapters_are_equal_files(slot, params, tmp_path):
    """Sets of layer names are in another order in every process with another seed of hashes."""
    command = [sys.executable, "-c", SAVE, params.model_dump_json(), str(tmp_path / "other")]
    other_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": other_seed})
    method = slot.put(params.adaptation.method)
    method.attach(seed=0)
    method.save(tmp_path / "one", method.state())
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "other")
    )
    assert one == other
    targets = json.loads(one["adapter_config.json"])["target_modules"]
    assert targets == sorted(targets)
