"""What every method owes to the model, and what sets each apart."""

import pytest
import torch
from lora_adapters import PARAMS

from lora_tta.adaptation.methods import MethodSlot
from lora_tta.adaptation.objective import AdaptationLoss
from lora_tta.adaptation.trajectory import adapt
from lora_tta.config import AdaptationParams, load_params
from lora_tta.errors import UserError

LORA = load_params(PARAMS).adaptation.method.model_dump() | {"rank": 2}
METHODS = {
    "lora": LORA,
    "rslora": LORA | {"use_rslora": True},
    "dora": LORA | {"use_dora": True},
    "pissa": LORA | {"init_lora_weights": "pissa"},
    "olora": LORA | {"init_lora_weights": "olora", "use_rslora": True},
    "gaussian lora": LORA | {"init_lora_weights": "gaussian"},
    "lora in the last block": LORA | {"last_blocks": 1},
    "lora by pattern": LORA | {"pattern": r"transformer_blocks\.0\.attn\.to_[qv]$"},
    "one offset": {"name": "offset", "groups": 1},
    "offsets by group": {"name": "offset", "groups": 2},
    "norms": {"name": "norms"},
    "full": {"name": "full"},
}
every_method = pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)


@pytest.fixture
def slot(backbone):
    return MethodSlot(backbone)


@pytest.fixture
def params_of(params):
    def params_of(settings, **changes) -> AdaptationParams:
        return AdaptationParams.model_validate(
            params.adaptation.model_dump() | {"method": settings, "warmup_steps": 0} | changes
        )

    return params_of


@pytest.fixture
def output(backbone, conditioning, params):
    """The loss of one fixed draw: a number that any change of the model changes."""
    return lambda: AdaptationLoss(backbone, conditioning, params.adaptation, seed=0).at(0).item()


@pytest.fixture
def trained(backbone, slot, conditioning, params_of):
    def trained(settings, num_steps=3, **changes):
        adaptation = params_of(settings, num_steps=num_steps, learning_rate=1e-2, **changes)
        method = slot.put(adaptation.method)
        return method, list(adapt(backbone, method, conditioning, adaptation, seed=0))[-1]

    return trained


@every_method
def test_fresh_parameters_change_nothing_and_are_the_only_trainable_ones(
    backbone, slot, params_of, output, settings
):
    before = output()
    parameters = slot.put(params_of(settings).method).attach(seed=0)
    assert output() == pytest.approx(before, rel=1e-6)  # DoRA divides by a length and multiplies with it
    trainable = [parameter for parameter in backbone.network.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in trainable} == {id(parameter) for parameter in parameters}


@every_method
def test_every_parameter_moves(trained, settings):
    method, snapshot = trained(settings)
    moved = snapshot.parameters
    method.attach(seed=0)
    fresh = method.state()
    assert moved.keys() == fresh.keys()
    still = [name for name in moved if torch.equal(moved[name], fresh[name])]
    # Nobody reads what the last double-stream block makes of the text, but its keys and values.
    unread = ("ff_context", "to_add_out", "add_q_proj", "norm_added_q", "norm1_context")
    assert not [name for name in still if not any(part in name for part in unread)]


@every_method
def test_what_is_saved_loads_and_what_is_taken_out_leaves_no_trace(
    trained, slot, params_of, output, tmp_path, settings
):
    before = output()
    method, snapshot = trained(settings)
    adapted = output()
    assert adapted != before
    method.save(tmp_path, snapshot.parameters)
    slot.clear()
    assert output() == before
    slot.put(params_of(settings).method).load(tmp_path)
    assert output() == adapted
    slot.clear()
    assert output() == before


@every_method
def test_a_run_that_is_continued_is_the_whole_run(trained, backbone, conditioning, params_of, settings):
    method, whole = trained(settings, num_steps=4)
    _, half = trained(settings, num_steps=2)
    adaptation = params_of(settings, num_steps=4, learning_rate=1e-2)
    continued = list(adapt(backbone, method, conditioning, adaptation, seed=0, start=half))[-1]
    assert continued.losses == whole.losses
    assert all(torch.equal(continued.parameters[name], whole.parameters[name]) for name in whole.parameters)


def test_lora_in_the_last_block_or_by_pattern_is_there_alone(backbone, trained):
    number = len(backbone.network.single_transformer_blocks) - 1
    _, last = trained(METHODS["lora in the last block"])
    assert last.parameters
    assert all(name.startswith(f"single_transformer_blocks.{number}.") for name in last.parameters)
    _, chosen = trained(METHODS["lora by pattern"])
    layers = {name.split(".lora_")[0] for name in chosen.parameters}
    assert layers == {
        f"{kind}transformer_blocks.0.attn.{layer}" for kind in ("", "single_") for layer in ("to_q", "to_v")
    }


def test_a_pattern_without_a_layer_is_one_line(slot, params_of):
    with pytest.raises(UserError, match=r"pattern 'nothing' matches no layer.*paths look like"):
        slot.put(params_of(LORA | {"pattern": "nothing"}).method)


def test_a_group_of_blocks_has_an_offset_of_the_models_width(backbone, trained):
    width = backbone.network.proj_out.in_features
    for groups in (1, 2):
        _, snapshot = trained({"name": "offset", "groups": groups})
        assert [tensor.shape for tensor in snapshot.parameters.values()] == [(groups, width)]


def test_equal_offsets_of_all_groups_are_one_offset(backbone, conditioning, output):
    values = torch.randn(backbone.network.proj_out.in_features, generator=torch.Generator().manual_seed(0))
    outputs = []
    for groups in (1, 2):
        with torch.no_grad():
            backbone.put_offsets(groups).copy_(values)
        outputs.append(output())
        backbone.remove_offsets()
    assert outputs == pytest.approx(outputs[:1] * 2, rel=1e-6)


def test_fused_projections_take_offsets_and_refuse_to_train_what_they_hide(
    backbone, slot, params_of, trained, output
):
    _, plain = trained({"name": "offset", "groups": 2})
    slot.clear()
    backbone.network.fuse_projections()
    _, fused = trained({"name": "offset", "groups": 2})
    torch.testing.assert_close(fused.parameters, plain.parameters)
    slot.clear()
    for name in ("norms", "full"):
        with pytest.raises(UserError, match=r"no gradients: set model\.accelerate to false"):
            slot.put(params_of({"name": name}).method)


def test_more_groups_than_blocks_are_refused(slot, params_of):
    with pytest.raises(UserError, match="groups is 99, and the model has 2 blocks"):
        slot.put(params_of({"name": "offset", "groups": 99}).method).attach(seed=0)


def test_all_weights_without_the_memory_for_them_are_refused(slot, params_of, monkeypatch):
    monkeypatch.setattr("lora_tta.adaptation.methods.full.available_memory", lambda device: 10**4)
    with pytest.raises(UserError, match=r"method full needs about .* GiB beside the model.*take lora"):
        slot.put(params_of({"name": "full"}).method)
