import pytest
import torch

from lora_tta.models.packing import (
    CONDITION_MODES,
    build_condition,
    latent_video_shape,
    pack_condition,
    pack_latents,
    prepare_img_ids,
    restore_reference,
    unpack_latents,
)

SHAPE = (2, 16, 20, 4, 6)

KNOWN_FRAMES = {
    "i2v_head": [0],
    "i2v_tail": [19],
    "i2v_loop": [0, 19],
    "v2v_head": list(range(9)),
    "v2v_tail": list(range(11, 20)),
    "v2v_head_easy": list(range(17)),
    "v2v_tail_easy": list(range(3, 20)),
}


def test_packing_matches_the_published_code(mmdit_io):
    tokens = pack_latents(mmdit_io["latent_noise"])
    assert torch.equal(tokens, mmdit_io["packed_tokens"])
    assert torch.equal(prepare_img_ids(17, 4, 6), mmdit_io["img_ids"][0])


def test_condition_matches_the_published_code(mmdit_io):
    mask, masked_reference = build_condition("v2v_head", mmdit_io["reference_latents"], (1, 16, 17, 4, 6))
    assert torch.equal(mask, mmdit_io["mask"])
    assert torch.equal(masked_reference, mmdit_io["masked_reference"])
    assert torch.equal(pack_condition(mask, masked_reference), mmdit_io["packed_condition"])


def test_unpacking_undoes_packing():
    latents = torch.randn(SHAPE)
    assert torch.equal(unpack_latents(pack_latents(latents), 20, 4, 6), latents)


def test_channels_are_outermost_within_a_token():
    latents = torch.zeros(1, 2, 1, 2, 4)
    latents[0, 1, 0, 0, 3] = 1
    assert pack_latents(latents)[0].nonzero().tolist() == [[1, 5]]


@pytest.mark.parametrize("mode", KNOWN_FRAMES)
def test_each_mode_knows_its_frames(mode):
    known = KNOWN_FRAMES[mode]
    reference = torch.randn(1, 16, len(known), 4, 6)
    mask, masked_reference = build_condition(mode, reference, SHAPE)
    assert mask.shape == (2, 1, 20, 4, 6)
    assert masked_reference.shape == SHAPE
    assert mask[:, 0].amin((0, 2, 3)).nonzero().flatten().tolist() == known
    assert mask[:, 0].amax((0, 2, 3)).nonzero().flatten().tolist() == known
    assert torch.equal(masked_reference[:, :, known], reference.expand(2, -1, -1, -1, -1))
    unknown = [frame for frame in range(20) if frame not in known]
    assert not masked_reference[:, :, unknown].any()


def test_text_to_video_knows_nothing():
    mask, masked_reference = build_condition("t2v", None, SHAPE)
    assert not mask.any()
    assert not masked_reference.any()
    assert pack_condition(mask, masked_reference).shape == (2, 20 * 2 * 3, 17 * 4)


def test_every_mode_is_tested():
    assert {*KNOWN_FRAMES, "t2v"} == set(CONDITION_MODES)


def test_longer_references_give_the_end_the_mode_is_about():
    reference = torch.randn(2, 16, 12, 4, 6)
    head = build_condition("v2v_head", reference, SHAPE)[1]
    tail = build_condition("v2v_tail", reference, SHAPE)[1]
    assert torch.equal(head[:, :, :9], reference[:, :, :9])
    assert torch.equal(tail[:, :, -9:], reference[:, :, -9:])


@pytest.mark.parametrize("mode", KNOWN_FRAMES)
def test_only_image_modes_put_the_reference_back(mode):
    reference = torch.randn(1, 16, len(KNOWN_FRAMES[mode]), 4, 6)
    condition = build_condition(mode, reference, SHAPE)
    sampled = torch.randn(SHAPE)
    restored = restore_reference(mode, sampled, *condition)
    changed = [frame for frame in range(20) if not torch.equal(restored[:, :, frame], sampled[:, :, frame])]
    assert changed == (KNOWN_FRAMES[mode] if mode.startswith("i2v") else [])


@pytest.mark.parametrize(
    ("mode", "reference_shape", "message"),
    [
        ("v2v", (1, 16, 9, 4, 6), "unknown mode 'v2v'; the modes are t2v, i2v_head"),
        ("v2v_head", None, "mode v2v_head needs reference"),
        ("t2v", (1, 16, 9, 4, 6), "t2v takes no reference"),
        ("v2v_head", (1, 16, 8, 4, 6), "needs 9 latent frames, got 8"),
        ("v2v_head", (3, 16, 9, 4, 6), "do not fit"),
        ("v2v_head", (1, 4, 9, 4, 6), "do not fit"),
        ("v2v_head", (1, 16, 9, 4, 8), "do not fit"),
        ("v2v_head", (16, 9, 4, 6), r"must be \(B, C, F, H, W\)"),
    ],
)
def test_wrong_references_are_refused(mode, reference_shape, message):
    reference = None if reference_shape is None else torch.zeros(reference_shape)
    with pytest.raises(ValueError, match=message):
        build_condition(mode, reference, SHAPE)


def test_odd_sizes_and_wrong_token_counts_are_refused():
    with pytest.raises(ValueError, match="must be even, got 3x6"):
        pack_latents(torch.zeros(1, 16, 2, 3, 6))
    with pytest.raises(ValueError, match="11 tokens cannot be 2 latent frames of 4x6, which make 12"):
        unpack_latents(torch.zeros(1, 11, 64), 2, 4, 6)


def test_video_size_comes_from_latents_reference_or_defaults():
    assert latent_video_shape((1, 16), "t2v") == (1, 16, 17, 24, 42)
    assert latent_video_shape((1, 16), "t2v", latents=torch.zeros(1, 16, 3, 4, 6)) == (1, 16, 3, 4, 6)
    reference = torch.zeros(1, 16, 9, 4, 6)
    assert latent_video_shape((2, 16), "v2v_head", reference_latents=reference) == (2, 16, 17, 4, 6)
    assert latent_video_shape((1, 16), "t2v", height=64, width=96, num_frames=5) == (1, 16, 2, 8, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 100}, "multiples of 16, got 100x336"),
        ({"num_frames": 64}, r"must be 4 k \+ 1, got 64"),
        ({"mode": "v2v_head_easy", "num_frames": 65}, "ask for more than 65 frames"),
        ({"latents": torch.zeros(1, 16, 3, 4, 6), "num_frames": 65}, "latents must have shape"),
        ({"latents": torch.zeros(2, 16, 3, 4, 6)}, "latents must have shape"),
    ],
)
def test_impossible_video_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        latent_video_shape((1, 16), **({"mode": "t2v"} | arguments))
