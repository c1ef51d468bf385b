import pytest
import torch

from lora_tta.adaptation.objective import AdaptationLoss
from lora_tta.backbones.opensora import OpenSoraBackbone
from lora_tta.models.packing import pack_latents


class Recorder(torch.nn.Module):
    """Stands where the transformer does, keeps what it is given, and predicts zero."""

    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, **inputs):
        self.inputs = inputs
        return type("Output", (), {"sample": torch.zeros_like(inputs["hidden_states"])})


def visible_frames(recorder):
    """Latent frames whose mask (the first four channels of the packed condition) is one."""
    return recorder.inputs["condition"][0, :, :4].reshape(9, -1).amin(dim=1)


@pytest.fixture
def draws(pipeline, conditioning, params, monkeypatch):
    def run(steps=range(40), **changes):
        adaptation = params.adaptation.model_copy(update=changes)
        recorder = Recorder(pipeline.transformer)
        monkeypatch.setattr(OpenSoraBackbone, "network", recorder)
        loss_of = AdaptationLoss(OpenSoraBackbone(pipeline), conditioning, adaptation, seed=3)
        for step in steps:
            yield loss_of.at(step), recorder

    return run


def test_the_published_objective_shows_every_frame(draws):
    assert all(visible_frames(recorder).sum() == 9 for _, recorder in draws(condition="all"))


def test_without_condition_no_frame_is_shown(draws):
    assert all(not recorder.inputs["condition"].any() for _, recorder in draws(condition="none"))


def test_prefix_shows_one_to_eight_first_frames(draws):
    masks = [visible_frames(recorder) for _, recorder in draws(condition="prefix")]
    assert all(torch.equal(mask, mask.sort(descending=True).values) for mask in masks)
    assert {int(mask.sum()) for mask in masks} == set(range(1, 9))


def test_prefix_counts_the_hidden_frames_alone(draws, conditioning):
    loss, recorder = next(draws(steps=[0], condition="prefix"))
    tokens_per_frame = 2 * 3
    first_hidden = int(visible_frames(recorder).sum()) * tokens_per_frame
    everywhere, _ = next(draws(steps=[0], condition="all"))
    assert loss != everywhere
    # A prediction of zero leaves the target itself; the noise in it follows from the noisy input.
    timestep = recorder.inputs["timestep"]
    noisy = recorder.inputs["hidden_states"]
    clean = pack_latents(conditioning["reference_latents"])
    noise = (noisy - (1 - timestep) * clean) / (1 - (1 - 1e-5) * (1 - timestep))
    target = (1 - 1e-5) * noise - clean
    assert loss.item() == pytest.approx(target[:, first_hidden:].square().mean().item(), rel=1e-3)


def test_prefix_counts_all_frames_where_that_is_asked_for(draws):
    """As if every frame were hidden from the count of `prefix`, and shown as `prefix` shows them."""
    alone, recorder = next(draws(steps=[0], condition="prefix"))
    hidden = visible_frames(recorder)
    every, recorder = next(draws(steps=[0], condition="prefix", scored="all"))
    assert torch.equal(visible_frames(recorder), hidden)
    everywhere, _ = next(draws(steps=[0], condition="none"))
    assert alone != every == everywhere  # a prediction of zero has the same error whatever is shown


def test_stratified_timesteps_are_evenly_spread_after_any_number_of_steps(draws):
    times = [float(recorder.inputs["timestep"]) for _, recorder in draws(range(64), timesteps="stratified")]
    for count in (4, 8, 21, 64):
        gaps = torch.tensor([*times[:count], min(times[:count]) + 1]).sort().values.diff()
        assert gaps.max() < 2.7 / count  # of as many random ones, the largest is about ln(count) / count


def test_timesteps_are_uniform_or_shifted_towards_the_noise(draws):
    def mean(**changes):
        return torch.stack(
            [recorder.inputs["timestep"] for _, recorder in draws(range(400), **changes)]
        ).mean()

    assert mean(timesteps="uniform") == pytest.approx(0.5, abs=0.05)
    assert mean(timesteps="logit_normal") > 0.6


def test_shifted_timesteps_are_spread_as_the_times_of_sampling(draws):
    """A uniform u becomes a u / (1 + (a - 1) u), and sampling's times are so many even values of u."""
    uniform, shifted = (
        torch.cat([recorder.inputs["timestep"] for _, recorder in draws(range(20), timesteps=name)])
        for name in ("uniform", "shifted")
    )
    alpha = shifted * (1 - uniform) / (uniform * (1 - shifted))
    torch.testing.assert_close(alpha, alpha[:1].expand(20), rtol=1e-3, atol=1e-3)
    assert alpha[0] > 1


def test_a_step_draws_the_same_whatever_ran_before(draws):
    alone = [loss for loss, _ in draws(steps=[7])]
    after_others = [loss for loss, _ in draws(steps=[1, 2, 7])]
    assert alone[-1] == after_others[-1]
    assert after_others[0] != after_others[1]
