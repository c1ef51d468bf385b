from types import SimpleNamespace

import pytest
import torch

from lora_tta.adaptation import trajectory
from lora_tta.adaptation.methods import MethodSlot
from lora_tta.adaptation.trajectory import AdaptationRecord, Snapshot, adapt
from lora_tta.backbones import opensora
from lora_tta.errors import FailedWork


@pytest.fixture
def method(backbone, params):
    return MethodSlot(backbone).put(params.adaptation.at({"rank": 2}).method)


@pytest.fixture
def run(backbone, method, conditioning, params):
    def run(num_steps, learning_rate=1e-2, **options):
        adaptation = params.adaptation.at({"rank": 2, "learning_rate": learning_rate, "num_steps": num_steps})
        return list(adapt(backbone, method, conditioning, adaptation, seed=0, **options))

    return run


def same(one: Snapshot, other: Snapshot) -> bool:
    return one.losses == other.losses and all(
        torch.equal(one.parameters[name], other.parameters[name]) for name in one.parameters
    )


def test_a_long_run_passes_through_the_shorter_ones(run):
    long = run(12, save_at=[4, 8, 30])
    assert [snapshot.num_steps for snapshot in long] == [4, 8, 12]
    assert same(long[0], run(4)[-1])
    assert same(long[1], run(8)[-1])


def test_a_stopped_run_continues_bit_identically(run, method, tmp_path):
    whole = run(10)[-1]
    stopped = run(6)[-1]
    stopped.save(method, tmp_path)
    stopped.save_optimizer(tmp_path)
    continued = run(10, start=Snapshot.load(method, tmp_path, tmp_path))[-1]
    assert same(whole, continued)
    assert continued.seconds > 0


def test_training_lowers_the_loss(run):
    losses = torch.tensor(run(60, learning_rate=3e-2)[-1].losses)
    assert losses[-15:].mean() < losses[:15].mean()


def test_the_learning_rate_warms_up_over_five_steps(run):
    snapshots = run(7, save_at=[1, 2, 3, 4, 5, 6])
    rates = [snapshot.optimizer["schedule"]["_last_lr"][0] for snapshot in snapshots]
    assert rates == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3, 1e-2, 1e-2, 1e-2])


def test_a_snapshot_holds_the_adapter_once_with_losses_and_costs_beside_it(run, method, tmp_path):
    snapshot = run(1)[-1]
    snapshot.save(method, tmp_path)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert files == {
        "adaptation.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    record = AdaptationRecord.load(tmp_path)
    assert record.losses == snapshot.losses
    assert record.num_parameters == sum(tensor.numel() for tensor in snapshot.parameters.values())


@pytest.mark.parametrize(("available", "recomputes"), [(10**12, False), (10**4, True)])
def test_activations_are_recomputed_only_where_memory_is_short(
    run, backbone, monkeypatch, available, recomputes
):
    monkeypatch.setattr(opensora, "available_memory", lambda device: available)
    losses = run(3)[-1].losses
    assert backbone.network.gradient_checkpointing == recomputes
    monkeypatch.undo()
    assert losses == run(3)[-1].losses


def test_where_memory_runs_out_the_adaptation_begins_again_with_recomputation(run, backbone, monkeypatch):
    expected = run(3)[-1]
    loss = type(backbone).loss
    attempts = []

    def too_large(self, *arguments):
        attempts.append(self.network.gradient_checkpointing)
        if len(attempts) == 2:
            raise torch.OutOfMemoryError
        return loss(self, *arguments)

    monkeypatch.setattr(type(backbone), "loss", too_large)
    assert same(run(3)[-1], expected)
    assert attempts == [False, False, True, True, True]


def test_where_memory_runs_out_with_recomputation_too_the_error_is_raised(run, backbone, monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(type(backbone), "loss", too_large)
    with pytest.raises(torch.OutOfMemoryError):
        run(3)


def test_a_loss_that_is_not_finite_names_its_step(run):
    with pytest.raises(FailedWork, match=r"the training loss is (nan|inf) at step"):
        run(20, learning_rate=1e30)


def test_seconds_are_those_of_the_steps_without_what_a_process_does_once(run, backbone, method, monkeypatch):
    clock, loss = SimpleNamespace(now=0.0, first_uses=0.0), type(backbone).loss

    def taking_a_second(self, *arguments):
        clock.now += 1
        if clock.now == 2:  # the second step of all
            clock.now += 100
            clock.first_uses += 100
        return loss(self, *arguments)

    monkeypatch.setattr(type(backbone), "loss", taking_a_second)
    monkeypatch.setattr(type(backbone), "first_use_seconds", property(lambda self: clock.first_uses))
    monkeypatch.setattr(trajectory, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    snapshots = run(4, save_at=[1, 3])
    assert [snapshot.seconds for snapshot in snapshots] == [1, 3, 4]
    assert run(6, start=snapshots[-1])[-1].seconds == 6
