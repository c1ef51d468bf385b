import pytest
import torch

from lora_tta.adaptation import trajectory
from lora_tta.adaptation.trajectory import LoraSettings, Snapshot, adapt


@pytest.fixture
def run(pipeline, conditioning, params):
    def run(num_steps, learning_rate=1e-2, **options):
        settings = LoraSettings(rank=2, learning_rate=learning_rate, num_steps=num_steps)
        return list(adapt(pipeline.transformer, conditioning, settings, params.adaptation, seed=0, **options))

    return run


def same(one: Snapshot, other: Snapshot) -> bool:
    return one.losses == other.losses and all(
        torch.equal(one.adapter[name], other.adapter[name]) for name in one.adapter
    )


def test_a_long_run_passes_through_the_shorter_ones(run):
    long = run(12, save_at=[4, 8, 30])
    assert [snapshot.num_steps for snapshot in long] == [4, 8, 12]
    assert same(long[0], run(4)[-1])
    assert same(long[1], run(8)[-1])


def test_a_stopped_run_continues_bit_identically(run, tmp_path):
    whole = run(10)[-1]
    run(6)[-1].save(tmp_path)
    continued = run(10, start=Snapshot.load(tmp_path))[-1]
    assert same(whole, continued)
    assert continued.seconds > 0


def test_training_lowers_the_loss(run):
    losses = torch.tensor(run(60, learning_rate=3e-2)[-1].losses)
    assert losses[-15:].mean() < losses[:15].mean()


def test_the_learning_rate_warms_up_over_five_steps(run):
    snapshots = run(7, save_at=[1, 2, 3, 4, 5, 6])
    rates = [snapshot.optimizer["schedule"]["_last_lr"][0] for snapshot in snapshots]
    assert rates == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3, 1e-2, 1e-2, 1e-2])


def test_a_snapshot_is_a_peft_folder(run, tmp_path):
    run(1)[-1].save(tmp_path)
    assert (tmp_path / "adapter_config.json").exists()
    assert (tmp_path / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(("available", "recomputes"), [(10**12, False), (10**4, True)])
def test_activations_are_recomputed_only_where_memory_is_short(
    run, pipeline, monkeypatch, available, recomputes
):
    monkeypatch.setattr(trajectory, "available_memory", lambda device: available)
    losses = run(3)[-1].losses
    assert pipeline.transformer.gradient_checkpointing == recomputes
    monkeypatch.undo()
    assert losses == run(3)[-1].losses
