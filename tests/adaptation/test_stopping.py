"""The number of steps that the end of the known frames chooses."""

import pytest
import torch

from lora_tta.adaptation import stopping, trajectory
from lora_tta.adaptation.methods import MethodSlot
from lora_tta.adaptation.stopping import HeldOutError, adapt_until_best
from lora_tta.adaptation.trajectory import AdaptationRecord, Snapshot, adapt
from lora_tta.config import AdaptationParams, StoppingParams
from lora_tta.errors import FailedWork, UserError

RULE = StoppingParams(held_out=2, every=2, patience=2, draws=3, min_gain=0.0, refit=False)


@pytest.fixture
def method(backbone, params):
    return MethodSlot(backbone).put(params.adaptation.at({"rank": 2}).method)


@pytest.fixture
def adaptation(params):
    return params.adaptation.at({"rank": 2, "learning_rate": 1e-2, "num_steps": 12})


@pytest.fixture
def told(monkeypatch):
    """Errors by step in place of the measured ones; returns the steps that were looked at."""

    def tell(errors: list[float]) -> list[float]:
        left, seen = list(errors), []
        monkeypatch.setattr(HeldOutError, "__call__", lambda self: seen.append(left.pop(0)) or seen[-1])
        return seen

    return tell


@pytest.fixture
def recorded_timesteps(backbone, monkeypatch):
    """The times that the loss is asked for."""
    seen = []
    loss = backbone.loss

    def recording(conditioning, noise, timestep, *rest, **named):
        seen.append(timestep)
        return loss(conditioning, noise, timestep, *rest, **named)

    monkeypatch.setattr(backbone, "loss", recording)
    return seen


@pytest.fixture
def run(backbone, method, conditioning, adaptation):
    def run(save_at=(), **changes) -> list[Snapshot]:
        rule = RULE.model_copy(update=changes)
        return list(adapt_until_best(backbone, method, conditioning, adaptation, rule, 0, save_at))

    return run


def test_the_least_error_wins_and_patience_ends_the_adaptation(run, told, method):
    seen = told([9, 5, 3, 4, 4, 0, 0])  # after 0, 2, 4, 6, 8 steps; nobody looks further
    (snapshot,) = run()
    assert len(seen) == 5
    assert len(snapshot.losses) == 4
    assert snapshot.num_steps == 12
    assert snapshot.held_out_errors == {0: 9, 2: 5, 4: 3, 6: 4, 8: 4}
    held = method.state()
    assert all(torch.equal(held[name], tensor) for name, tensor in snapshot.parameters.items())


def test_a_clip_that_adaptation_would_harm_is_left_as_it_was(run, told, method):
    told([1, 2, 3])
    (snapshot,) = run()
    assert snapshot.losses == ()
    method.attach(seed=0)
    fresh = method.state()
    assert all(torch.equal(fresh[name], tensor) for name, tensor in snapshot.parameters.items())


def test_a_clip_that_adaptation_would_hardly_help_is_left_as_it_was(run, told):
    """From 10 to 9 is a tenth."""
    for min_gain, steps in ((0.1, 4), (0.11, 0)):
        told([10, 9.5, 9, 9, 9])
        (snapshot,) = run(min_gain=min_gain)
        assert len(snapshot.losses) == steps


def test_one_run_serves_every_limit_and_others_do_not_change_it(run, told):
    errors = [9, 5, 7, 3, 4, 4]
    told(errors)
    several = {snapshot.num_steps: len(snapshot.losses) for snapshot in run(save_at=[3, 5, 7])}
    assert several == {3: 2, 5: 2, 7: 6, 12: 6}
    told(errors)
    assert {snapshot.num_steps: len(snapshot.losses) for snapshot in run()} == {12: 6}


def test_the_steps_before_the_choice_do_not_take_the_held_out_latents(
    backbone, method, conditioning, adaptation, run, told
):
    told([9, 1, 2, 2])
    (snapshot,) = run()
    changed = conditioning.tensors | {"reference_latents": conditioning["reference_latents"].clone()}
    changed["reference_latents"][:, :, 7:] = 0
    shown = backbone.first_latents(type(conditioning)(changed), 7)
    alone = list(adapt(backbone, method, shown, adaptation.model_copy(update={"num_steps": 2}), 0))[-1]
    assert snapshot.losses == alone.losses


def test_refitting_takes_as_many_steps_on_all_known_frames(
    backbone, method, conditioning, adaptation, run, told
):
    told([9, 5, 3, 4, 4])
    (snapshot,) = run(refit=True)
    whole = adaptation.model_copy(update={"num_steps": 4})
    expected = list(adapt(backbone, method, conditioning, whole, 0))[-1]
    assert snapshot.losses == expected.losses
    assert all(torch.equal(expected.parameters[name], value) for name, value in snapshot.parameters.items())


def test_the_error_is_the_same_at_every_look_and_falls_as_the_frames_are_learnt(
    backbone, method, conditioning, params
):
    error_of = HeldOutError(backbone, conditioning, RULE, seed=0)
    method.attach(seed=0)
    before = error_of()
    assert error_of() == before
    adaptation = params.adaptation.at({"rank": 2, "learning_rate": 3e-2, "num_steps": 40})
    list(adapt(backbone, method, conditioning, adaptation, seed=0))
    assert error_of() < before


def test_the_errors_times_are_spread_as_those_of_sampling(backbone, conditioning, recorded_timesteps):
    HeldOutError(backbone, conditioning, RULE, seed=0)()
    latents = backbone.clean_latents(conditioning)
    expected = backbone.shift_timesteps(torch.tensor([1 / 6, 3 / 6, 5 / 6]), latents)
    torch.testing.assert_close(torch.cat(recorded_timesteps), expected)


def test_errors_and_choice_are_kept_with_the_adapter(run, told, method, tmp_path):
    told([9, 5, 3, 4, 4])
    (snapshot,) = run()
    snapshot.save(method, tmp_path)
    assert AdaptationRecord.load(tmp_path).held_out_errors == {0: 9, 2: 5, 4: 3, 6: 4, 8: 4}


def test_too_many_held_out_frames_are_refused(run):
    with pytest.raises(UserError, match="held_out is 8: at most 7 of the 9 known latent frames"):
        run(held_out=8)


def test_a_rule_that_never_looks_is_refused(params):
    values = params.adaptation.model_dump() | {"num_steps": 1, "stopping": RULE.model_dump()}
    with pytest.raises(ValueError, match=r"stopping\.every is above num_steps"):
        AdaptationParams.model_validate(values)


def test_a_limit_costs_what_was_done_up_to_it_whatever_other_limits_there_are(run, told, monkeypatch):
    told([9, 5, 3, 4, 4])
    ticks = iter(range(1000))
    monkeypatch.setattr(stopping, "clock", lambda backbone: float(next(ticks)))
    # A tick at the start, and one after each look: after 0, 2, 4, 6 and 8 steps.
    assert {snapshot.num_steps: snapshot.seconds for snapshot in run(save_at=[1, 5])} == {1: 1, 5: 3, 12: 5}


def test_refitting_costs_its_own_steps_besides(run, told, monkeypatch):
    told([9, 5, 3, 4, 4, 9, 5, 3, 4, 4])
    # Wall seconds of so few steps are noise; here a second passes at each look at the clock.
    ticks = iter(range(1000))
    for module in (stopping, trajectory):
        monkeypatch.setattr(module, "clock", lambda backbone: float(next(ticks)))
    (without,), (refitted,) = run(), run(refit=True)
    assert refitted.seconds == without.seconds + 1
    assert refitted.peak_memory_bytes >= without.peak_memory_bytes > 0


def test_an_error_that_is_not_finite_fails_the_clip(run, backbone, monkeypatch):
    monkeypatch.setattr(type(backbone), "loss", lambda *_, **__: torch.tensor(float("nan")))
    with pytest.raises(FailedWork, match="held-out frames is nan"):
        run()
