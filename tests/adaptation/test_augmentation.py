"""Other views of the known frames."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lora_tta.adaptation.augmentation import View, show, views
from lora_tta.adaptation.methods import MethodSlot
from lora_tta.adaptation.objective import AdaptationLoss
from lora_tta.adaptation.stopping import adapt_until_best
from lora_tta.backbones.base import Conditioning
from lora_tta.config import AdaptationParams, AugmentationParams

ALL = AugmentationParams(flips=True, rotation=10.0, crop=0.8, speeds=True)


@pytest.fixture
def known(moving_frames):
    return moving_frames[:33]


def test_each_setting_is_a_view_or_several_or_none():
    assert views(ALL, 33) == [
        View(mirrored=True),
        View(degrees=10.0),
        View(degrees=-10.0),
        View(share=0.8),
        View(pace=0.5),
        View(pace=2.0),
    ]
    assert views(AugmentationParams(flips=False, rotation=0.0, crop=1.0, speeds=False), 33) == []
    assert View(pace=2.0) not in views(ALL, 5)


def test_a_view_of_nothing_are_the_frames(known):
    np.testing.assert_array_equal(show(known, View()), known)


def test_mirrored_twice_the_frames_are_themselves(known):
    mirrored = show(known, View(mirrored=True))
    np.testing.assert_array_equal(mirrored[:, :, 0], known[:, :, -1])
    np.testing.assert_array_equal(show(mirrored, View(mirrored=True)), known)


def test_at_double_speed_every_other_frame_is_left_out_and_at_half_speed_there_are_means_between(known):
    np.testing.assert_array_equal(show(known, View(pace=2.0)), known[::2])
    assert [len(show(known[:29], View(pace=pace))) for pace in (2.0, 0.5)] == [13, 29]
    slow = show(known, View(pace=0.5))
    assert len(slow) == 33
    np.testing.assert_array_equal(slow[::2], known[:17])
    mean = (known[3].astype(float) + known[4]) / 2
    assert np.abs(slow[7] - mean).max() <= 0.5


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (40, 40)])
@pytest.mark.parametrize("degrees", [-15.0, 5.0, 45.0])
def test_a_turned_picture_shows_no_border_and_turns_about_its_centre(size, degrees):
    """A ramp stays a ramp, in the turned direction; repeated borders would flatten it."""
    rows, columns = np.mgrid[: size[0], : size[1]] - (np.array(size)[:, None, None] - 1) / 2
    ramp = np.repeat((128 + 2 * columns)[None, ..., None], 3, axis=-1).round().astype(np.uint8)
    turned = show(ramp, View(degrees=degrees))[0, ..., 0].astype(float)
    angle, aspect = np.radians(degrees), max(size) / min(size)
    scale = 1 / (np.cos(angle) + aspect * abs(np.sin(angle)))
    expected = 128 + 2 * scale * (np.cos(angle) * columns - np.sin(angle) * rows)
    assert np.abs(turned - expected).max() <= 2


def test_a_crop_is_the_middle_enlarged(known):
    picture = np.zeros((1, 40, 60, 3), np.uint8)
    picture[:, 10:30, 15:45] = 200
    assert (show(picture, View(share=0.5))[:, 1:-1, 1:-1] == 200).all()


@pytest.fixture
def variants(backbone, conditioning):
    """Views of other latents, with distinct paces."""

    def encoded(pace: float, length: int) -> Conditioning:
        latents = torch.randn(1, 16, length, 4, 6, generator=torch.Generator().manual_seed(int(10 * pace)))
        return Conditioning(
            {**conditioning.tensors, "reference_latents": latents, "pace": torch.tensor([pace])}
        )

    return [encoded(0.5, 9), encoded(2.0, 5)]


def test_the_steps_take_all_views_and_without_views_draw_as_ever(backbone, conditioning, params, variants):
    plain = AdaptationLoss(backbone, conditioning, params.adaptation, seed=0)
    alone = AdaptationLoss(backbone, conditioning, params.adaptation, seed=0, variants=())
    both = AdaptationLoss(backbone, conditioning, params.adaptation, seed=0, variants=variants)
    taken = []
    loss = backbone.loss
    backbone.loss = lambda view, *rest: taken.append(view) or loss(view, *rest)
    with torch.no_grad():
        assert plain.at(3) == alone.at(3)
        taken.clear()
        first = [float(both.at(step)) for step in range(12)]
        assert [float(both.at(step)) for step in range(12)] == first
    assert {id(view) for view in taken} == {id(view) for view in (conditioning, *variants)}


def test_tokens_of_another_speed_have_its_times(backbone, variants, monkeypatch):
    times = []
    forward = backbone.network.forward

    def looking(**inputs):
        times.append(inputs["img_ids"][:, 0].unique().tolist())
        return forward(**inputs)

    monkeypatch.setattr(backbone.network, "forward", looking)
    with torch.no_grad():
        for view in variants:
            latents = backbone.clean_latents(view)
            backbone.loss(view, torch.zeros_like(latents), torch.tensor([0.5]), 1, 1)
    assert times == [[0.5 * step for step in range(9)], [0, 2, 4, 6, 8]]


def test_views_are_encoded_as_the_frames_themselves(backbone, known, conditioning):
    view = backbone.encode_view(conditioning, known, pace=1.0)
    whole = backbone.encode(known, "anything")
    assert torch.equal(view["reference_latents"], whole["reference_latents"])
    assert torch.equal(view["prompt_embeds"], conditioning["prompt_embeds"])
    assert backbone.encode_view(conditioning, known[::2], pace=2.0)["reference_latents"].shape[2] == 5


def test_held_out_frames_are_in_no_view(backbone, conditioning, params, variants):
    """A change of what a view shows after the frames that are not held out changes no choice."""
    rule = {"held_out": 3, "every": 1, "patience": 2, "draws": 1, "min_gain": 0.0, "refit": False}
    adaptation = AdaptationParams.model_validate(
        params.adaptation.model_dump() | {"num_steps": 3, "stopping": rule}
    )
    found = []
    for added in (0.0, 1.0):
        views = []
        # Latent frames 0 to 5 are shown: all nine of the slow view, and 0, 2 and 4 of the fast one.
        for view, first_hidden in zip(variants, (9, 3), strict=True):
            latents = view["reference_latents"].clone()
            latents[:, :, first_hidden:] += added
            views.append(Conditioning({**view.tensors, "reference_latents": latents}))
        method = MethodSlot(backbone).put(adaptation.method)
        snapshots = adapt_until_best(
            backbone, method, conditioning, adaptation, adaptation.stopping, seed=0, variants=views
        )
        found.append(list(snapshots)[-1])
    assert found[0].held_out_errors == found[1].held_out_errors
    assert found[0].losses == found[1].losses


@pytest.mark.parametrize("wrong", [{"rotation": 90.0}, {"crop": 0.0}, {"crop": 1.2}, {"rotation": -5.0}])
def test_views_that_show_nothing_of_use_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        AugmentationParams.model_validate(ALL.model_dump() | wrong)
