import json
from dataclasses import replace

import pytest
import torch

from lora_tta.embedded.loop import LOSS_FILE
from lora_tta.embedded.scenes import EMPTY_PROMPT
from lora_tta.embedded.train_transformer import (
    TRAINED_PARTS,
    LatentBuffer,
    TextConditionedTransformer,
    draw_conditions,
    train_transformer,
    weighted_error,
)
from lora_tta.models.packing import build_condition, pack_condition, pack_latents


def test_resumed_training_gives_the_same_weights(transformer_recipe, latent_space, tmp_path):
    whole = train_transformer(transformer_recipe, latent_space.gathered, tmp_path / "whole", num_workers=0)
    train_transformer(
        transformer_recipe, latent_space.gathered, tmp_path / "halves", num_workers=0, stop_after=3
    )
    resumed = train_transformer(
        transformer_recipe, latent_space.gathered, tmp_path / "halves", resume=True, num_workers=0
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_training_can_start_from_written_weights(transformer_recipe, latent_space, tmp_path):
    trained = train_transformer(transformer_recipe, latent_space.gathered, tmp_path / "a", num_workers=0)
    still = replace(transformer_recipe.optimisation, steps=1, learning_rate=0.0)
    again = train_transformer(
        replace(transformer_recipe, optimisation=still),
        latent_space.gathered,
        tmp_path / "b",
        num_workers=0,
        initial=tmp_path / "a",
    )
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)


def test_a_few_steps_lower_the_loss(transformer_recipe, latent_space, tmp_path):
    settings = replace(transformer_recipe.optimisation, steps=200, batch_size=8)
    recipe = replace(transformer_recipe, optimisation=settings, error_scale=1e6)
    train_transformer(recipe, latent_space.gathered, tmp_path, num_workers=0, stop_after=30)
    lines = (tmp_path / LOSS_FILE).read_text().splitlines()
    train_transformer(recipe, latent_space.gathered, tmp_path, resume=True, num_workers=0, stop_after=60)
    later = (tmp_path / LOSS_FILE).read_text().splitlines()[len(lines) :]
    assert json.loads(later[-1])["loss"] < 0.9 * json.loads(lines[0])["loss"]


def test_text_encoders_are_trained_too(transformer_recipe, latent_space, tmp_path):
    torch.manual_seed(transformer_recipe.optimisation.seed)
    trained = train_transformer(transformer_recipe, latent_space.gathered, tmp_path, num_workers=0)
    for name in TRAINED_PARTS:
        before = getattr(TextConditionedTransformer(transformer_recipe), name).state_dict()
        assert any(not torch.equal(before[k], v) for k, v in getattr(trained, name).state_dict().items())
        assert (tmp_path / name / "config.json").is_file()


@pytest.mark.parametrize(("share", "frames"), [(0.0, {17}), (1.0, {3}), (0.5, {3, 17})])
def test_some_steps_have_the_conditioning_frames_alone(
    transformer_recipe, latent_space, tmp_path, monkeypatch, share, frames
):
    """As adaptation has them, and any number of them is known but all."""
    seen = []
    forward = TextConditionedTransformer.forward

    def recording(self, noisy, timesteps, condition, prompts):
        known = condition.unflatten(1, (noisy.shape[2], -1))[..., 0].amin(dim=2).sum(dim=1)
        seen.append((noisy.shape[2], known.amax()))
        return forward(self, noisy, timesteps, condition, prompts)

    monkeypatch.setattr(TextConditionedTransformer, "forward", recording)
    recipe = replace(transformer_recipe, short_clips=share)
    train_transformer(recipe, latent_space.gathered, tmp_path, num_workers=0)
    assert {length for length, _ in seen} == frames
    assert all(known < 3 for length, known in seen if length == 3)


def test_the_buffer_holds_the_newest_clips(transformer_recipe, latent_space):
    def stored(first_step: int, refreshes: int) -> torch.Tensor:
        buffer = LatentBuffer(
            transformer_recipe, latent_space.gathered, first_step, torch.device("cpu"), num_workers=0
        )
        for _ in range(refreshes):
            buffer.refresh()
        return buffer.latents

    start, later = stored(0, 0), stored(0, 1)
    assert torch.equal(start[2:], later[2:])
    assert not torch.equal(start[:2], later[:2])
    assert torch.equal(stored(3, 0), later)


@pytest.mark.parametrize("known", [0, 1, 3, 9, 13])
def test_conditions_of_a_number_of_known_frames(transformer_recipe, known):
    """The frames that are known alone come first; the clip's own latents stand in for more than these."""
    recipe = replace(transformer_recipe, known_frames={known: 1.0}, prompt_dropout=0.0, unconditional=0.0)
    latents, alone, prompts = torch.randn(3, 32, 17, 2, 4), torch.randn(3, 32, 9, 2, 4), torch.arange(3)
    condition, rows = draw_conditions(latents, alone, prompts, recipe, torch.Generator().manual_seed(0))
    mode = {0: "t2v", 1: "i2v_head"}.get(known, "v2v_head")
    assert torch.equal(rows, prompts)
    if known in (0, 1, 9):  # the numbers that the modes have by default
        reference = alone[:, :, :known] if known else None
        expected = pack_condition(*build_condition(mode, reference, tuple(latents.shape)))
        assert torch.equal(condition, expected)
    mask = condition.reshape(3, 17, -1, 33, 4)[..., 0, :]
    assert torch.equal(mask.amin(dim=(0, 2, 3)), (torch.arange(17) < known).float())
    if known == 13:
        expected = pack_latents(latents).reshape(3, 17, -1, 128)
        assert torch.equal(condition.reshape(3, 17, -1, 132)[:, :13, :, 4:], expected[:, :13])


def test_without_guidance_inputs_neither_prompt_nor_condition_is_left(transformer_recipe):
    recipe = replace(transformer_recipe, unconditional=1.0)
    latents, alone, prompts = torch.randn(3, 32, 17, 2, 4), torch.randn(3, 32, 9, 2, 4), torch.arange(3)
    condition, rows = draw_conditions(latents, alone, prompts, recipe, torch.Generator().manual_seed(0))
    assert not condition.any()
    assert (rows == EMPTY_PROMPT).all()


@pytest.mark.parametrize(("known_weight", "expected"), [(0.5, 1.6), (1.0, 2.0)])
def test_known_frames_count_less(transformer_recipe, known_weight, expected):
    """Two hidden tokens with error 1 and one known token with error 4: (1 + 1 + 0.5 x 4) / 2.5."""
    recipe = replace(transformer_recipe, known_weight=known_weight, error_scale=1e6)
    error, is_known = torch.tensor([[1.0, 1.0, 4.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    loss = weighted_error(error[..., None].double().expand(-1, -1, 8), is_known, torch.ones(2), recipe)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_a_still_clip_counts_as_much_as_a_hard_one(transformer_recipe):
    """A tenth less error is worth nearly the same in both, as it is in PSNR."""
    recipe, still, hard = replace(transformer_recipe, error_scale=1e-3), 0.1, 1.0

    def loss(*errors: float) -> torch.Tensor:
        error = torch.tensor(errors, dtype=torch.double)[:, None, None].expand(-1, 3, 8)
        return weighted_error(error, torch.zeros(2, 3), torch.ones(2), recipe).item()

    better_still, better_hard = (
        loss(still, hard) - loss(0.9 * still, hard),
        loss(still, hard) - loss(still, 0.9 * hard),
    )
    assert better_still == pytest.approx(better_hard, rel=0.02)


def test_a_channel_counts_by_its_weight(transformer_recipe):
    error = torch.ones(1, 2, 8)
    error[..., 4:] = 0  # of the second channel
    recipe = replace(transformer_recipe, error_scale=1e6)
    loss = weighted_error(error, torch.zeros(1, 2), torch.tensor([1.5, 0.5]), recipe)
    assert loss == pytest.approx(0.75, rel=1e-4)
