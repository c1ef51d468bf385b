from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lora_tta.embedded.footage import NUM_LAYERS, draw_footage
from lora_tta.embedded.footage_rendering import PhotographBank, render_footage
from lora_tta.embedded.scenes import excerpt, render_videos, scene_batches
from lora_tta.errors import UserError


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> PhotographBank:
    """Three coloured noises of different sizes."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number, size in enumerate(((40, 60, 3), (60, 50, 3), (30, 90, 3))):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{number}.png")
    return PhotographBank(folder)


def stacked(seeds: range, photographs: int) -> dict[str, torch.Tensor]:
    scenes = [draw_footage(seed, 9, 24.0, photographs) for seed in seeds]
    return {name: torch.stack([scene[name] for scene in scenes]) for name in scenes[0]}


def test_a_seed_is_a_clip(bank):
    clip = render_footage(stacked(range(7, 8), 3), bank, 16, 32)
    assert clip.shape == (1, 9, 3, 16, 32)
    assert torch.equal(clip, render_footage(stacked(range(7, 8), 3), bank, 16, 32))
    assert not torch.equal(clip, render_footage(stacked(range(8, 9), 3), bank, 16, 32))


def test_clips_are_pictures_that_differ_and_mostly_move(bank):
    clips = render_footage(stacked(range(24), 3), bank, 16, 32)
    assert clips.isfinite().all()
    assert clips.min() >= 0
    assert clips.max() <= 1
    moving = (clips[:, 0] - clips[:, -1]).abs().mean(dim=(1, 2, 3)) > 0.005
    assert 12 <= moving.sum() <= 23  # some stand still, as a camera on a tripod before a wall does


def test_every_kind_of_clip_is_drawn():
    """Nobody, a few things, and a person of eleven parts."""
    layers = [int(draw_footage(seed, 3, 24.0, 3)["opacity"].sum()) for seed in range(60)]
    assert {1, 2, 3, 4, NUM_LAYERS - 1, NUM_LAYERS} <= set(layers)


def test_a_part_of_a_clip_is_that_part(bank):
    scenes = stacked(range(2), 3)
    scenes["noise"] = torch.zeros(2)
    whole = render_footage(scenes, bank, 16, 32)
    part = render_footage(excerpt(scenes, 2, 3, 4), bank, 16, 32)
    torch.testing.assert_close(part, whole[:, 3:7], rtol=0, atol=1e-5)


def test_some_clips_begin_with_another_shot(bank, small_video):
    """All of the clip before until a cut, which never comes later than in the middle, or fading out."""
    shots = torch.stack([draw_footage(seed, 64, 24.0, 3)["previous_shot"] for seed in range(100)])
    cuts = shots[shots.any(dim=1)]
    assert 5 <= len(cuts) <= 30
    assert (cuts.diff(dim=1) <= 0).all()
    assert not cuts[:, 33:].any()
    hard = ((cuts > 0) & (cuts < 1)).sum(dim=1) <= 1
    assert hard.any()
    assert not hard.all()

    scenes = stacked(range(2), 3)
    scenes["previous_shot"] = torch.tensor([[0.0] * 9, [1.0] * 4 + [0.0] * 5])
    scenes["noise"] = torch.zeros(2)
    clips = render_videos(scenes, small_video, bank)
    alone = render_footage(scenes, bank, 16, 32).transpose(1, 2) * 2 - 1
    torch.testing.assert_close(clips[0], alone[0])
    torch.testing.assert_close(clips[1, :, :4], alone[0, :, :4])
    torch.testing.assert_close(clips[1, :, 4:], alone[1, :, 4:])


def test_batches_are_patterns_or_footage_whatever_seed_they_begin_with(bank, small_video):
    video = replace(small_video, footage_share=0.5)
    batches = scene_batches(video, 3, 1001, 12, torch.device("cpu"), photographs=len(bank))
    kinds = set()
    for scenes, prompts in batches:
        kinds.add("photograph" in scenes)
        assert render_videos(scenes, video, bank).shape == (3, 3, 17, 16, 32)
        assert prompts.shape == (3,)
    assert kinds == {True, False}


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no \.jpg or \.png"):
        PhotographBank(tmp_path)
