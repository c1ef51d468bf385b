import json

import numpy as np
import pytest
import torch
from PIL import Image

import lora_tta
from lora_tta.models import OpenSoraContinuationPipeline
from lora_tta.models import pipeline as pipeline_module
from lora_tta.models.speed.acceleration import GraphedForward
from lora_tta.models.vae import decode_latents

FAST = {"num_inference_steps": 2, "output_type": "latent"}


@pytest.mark.parametrize(("oscillation", "expected"), [(False, "sample_plain"), (True, "sample_osci")])
def test_sampling_matches_the_published_code(
    embeddings_only_pipeline,
    embeddings,
    mmdit_io,
    reference_folder,
    relative_error,
    oscillation,
    expected,
):
    settings = json.loads((reference_folder / "sampling.json").read_text())
    sample = embeddings_only_pipeline(
        mode=settings["cond_type"],
        latents=mmdit_io["latent_noise"],
        reference_latents=mmdit_io["reference_latents"],
        num_inference_steps=settings["steps"],
        guidance_scale=settings["guidance"],
        image_guidance_scale=settings["guidance_img"],
        guidance_oscillation=oscillation,
        output_type="latent",
        **embeddings,
    ).frames
    assert relative_error(sample, mmdit_io[expected]) < 1e-5


@pytest.mark.parametrize(
    ("mode", "num_reference_frames", "num_frames"),
    [
        ("t2v", None, 5),
        ("i2v_head", 1, 9),
        ("i2v_tail", 1, 9),
        ("i2v_loop", 2, 9),
        ("v2v_head", 9, 41),
        ("v2v_tail", 9, 41),
        ("v2v_head_easy", 17, 73),
        ("v2v_tail_easy", 17, 73),
    ],
)
def test_every_mode_generates(embeddings_only_pipeline, embeddings, mode, num_reference_frames, num_frames):
    reference = None if mode == "t2v" else torch.randn(1, 16, num_reference_frames, 4, 6)
    sample = embeddings_only_pipeline(
        mode=mode,
        reference_latents=reference,
        height=32,
        width=48,
        num_frames=num_frames,
        **FAST,
        **embeddings,
    ).frames
    assert sample.shape == (1, 16, (num_frames - 1) // 4 + 1, 4, 6)
    if mode in ("i2v_head", "i2v_loop"):
        assert torch.equal(sample[:, :, 0], reference[:, :, 0])
    if mode in ("i2v_tail", "i2v_loop"):
        assert torch.equal(sample[:, :, -1], reference[:, :, -1])
    if mode == "v2v_head":
        assert not torch.equal(sample[:, :, :9], reference)


def test_frames_are_encoded_alone(pipeline, embeddings):
    frames = torch.rand(1, 41, 3, 32, 48)
    reference = pipeline.encode_reference(frames[:, :33], "v2v_head")
    assert reference.shape == (1, 16, 9, 4, 6)
    noise = torch.randn(1, 16, 11, 4, 6)
    from_latents = pipeline(reference_latents=reference, latents=noise, **FAST, **embeddings).frames
    frames[:, 33:] = 0
    from_frames = pipeline(frames=frames, latents=noise, **FAST, **embeddings).frames
    assert torch.equal(from_frames, from_latents)


def test_loop_encodes_its_two_frames_apart(pipeline):
    frames = torch.rand(1, 7, 3, 32, 48)
    both = pipeline.encode_reference(frames, "i2v_loop")
    assert torch.equal(both[:, :, :1], pipeline.encode_reference(frames, "i2v_head"))
    assert torch.equal(both[:, :, 1:], pipeline.encode_reference(frames, "i2v_tail"))


def test_prompts_give_what_their_embeddings_give(pipeline, mmdit_io):
    prompts = ["a dog runs", "a cat sleeps"]
    embeds, pooled = pipeline.encode_prompt(prompts)
    assert embeds.shape == (2, 16, 48)
    assert pooled.shape == (2, 24)
    negative, negative_pooled = pipeline.encode_prompt("")
    arguments = FAST | {
        "reference_latents": mmdit_io["reference_latents"],
        "latents": torch.randn(2, 16, 11, 4, 6),
    }
    from_prompts = pipeline(prompts, **arguments).frames
    from_embeddings = pipeline(
        prompt_embeds=embeds,
        pooled_prompt_embeds=pooled,
        negative_prompt_embeds=negative,
        negative_pooled_prompt_embeds=negative_pooled,
        **arguments,
    ).frames
    assert torch.equal(from_prompts, from_embeddings)
    assert not torch.equal(from_prompts, pipeline(prompts[::-1], **arguments).frames)


def test_generator_decides_the_noise(embeddings_only_pipeline, embeddings):
    def sample(seed):
        return embeddings_only_pipeline(
            mode="t2v",
            height=32,
            width=48,
            num_frames=5,
            generator=torch.Generator().manual_seed(seed),
            **FAST,
            **embeddings,
        ).frames

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))


def test_output_types_show_the_same_video(pipeline, embeddings):
    arguments = {"mode": "t2v", "latents": torch.randn(1, 16, 2, 4, 6), "num_inference_steps": 1} | embeddings
    tensor = pipeline(output_type="pt", **arguments).frames
    assert tensor.shape == (1, 5, 3, 32, 48)
    assert 0 <= tensor.min() < tensor.max() <= 1
    array = pipeline(output_type="np", **arguments).frames
    np.testing.assert_array_equal(array, tensor.permute(0, 1, 3, 4, 2).numpy())
    (images,) = pipeline(output_type="pil", return_dict=False, **arguments)[0]
    assert len(images) == 5
    assert isinstance(images[0], Image.Image)
    np.testing.assert_allclose(np.asarray(images[0]) / 255, array[0, 0], atol=0.5 / 255 + 1e-6)


def test_decoding_takes_the_memory_of_graphs_where_it_needs_it(pipeline, embeddings, monkeypatch):
    reference = torch.randn(1, 16, 9, 4, 6)
    settings = FAST | embeddings | {"reference_latents": reference, "num_frames": 41, "output_type": "pt"}
    expected = pipeline(**settings, generator=torch.Generator().manual_seed(0)).frames
    forward = pipeline.transformer.forward = GraphedForward(pipeline.transformer)
    forward.replays["captured before"] = lambda: None

    def decode_if_there_is_room(vae, latents):
        if forward.replays:
            raise torch.OutOfMemoryError
        return decode_latents(vae, latents)

    monkeypatch.setattr(pipeline_module, "decode_latents", decode_if_there_is_room)
    frames = pipeline(**settings, generator=torch.Generator().manual_seed(0)).frames
    assert torch.equal(frames, expected)


def test_unneeded_branches_are_not_run(embeddings_only_pipeline, embeddings, mmdit_io):
    rows = []
    embeddings_only_pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    arguments = {"reference_latents": mmdit_io["reference_latents"], "output_type": "latent"}
    embeddings_only_pipeline(num_frames=41, num_inference_steps=13, **arguments, **embeddings)
    assert rows == [3] * 11 + [1, 3]

    rows.clear()
    only_prompt = {name: embeddings[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}
    embeddings_only_pipeline(
        num_frames=41,
        num_inference_steps=2,
        guidance_scale=1,
        image_guidance_scale=1,
        **arguments,
        **only_prompt,
    )
    assert rows == [1, 1]


def test_callback_sees_and_replaces_latents_and_can_interrupt(embeddings_only_pipeline, embeddings):
    seen = []

    def callback(pipeline, step, timestep, tensors):
        seen.append((step, float(timestep), tensors["latents"].shape))
        pipeline._interrupt = step == 1
        assert pipeline.num_timesteps == 5
        return {"latents": torch.full_like(tensors["latents"], step)}

    sample = embeddings_only_pipeline(
        mode="t2v",
        latents=torch.randn(1, 16, 2, 4, 6),
        num_inference_steps=5,
        callback_on_step_end=callback,
        output_type="latent",
        **embeddings,
    ).frames
    assert [step for step, _, _ in seen] == [0, 1]
    assert seen[0][1] == 1000
    assert seen[0][2] == (1, 16, 2, 4, 6)
    assert (sample == 1).all()


def test_save_and_load_round_trip(pipeline, tmp_path):
    arguments = {"mode": "t2v", "latents": torch.randn(1, 16, 2, 4, 6), "num_inference_steps": 2}
    expected = pipeline("a dog runs", output_type="pt", **arguments).frames
    pipeline.save_pretrained(tmp_path)
    # Memory-mapped weights lie unaligned, for which PyTorch rounds differently in the last bit.
    loaded = OpenSoraContinuationPipeline.from_pretrained(tmp_path, disable_mmap=True)
    assert type(loaded.transformer) is lora_tta.OpenSoraTransformer3DModel
    assert not loaded.vae.use_framewise_encoding
    assert not loaded.vae.use_framewise_decoding
    assert torch.equal(loaded("a dog runs", output_type="pt", **arguments).frames, expected)


def test_bfloat16_transformer_keeps_float32_latents(embeddings_only_pipeline, embeddings, relative_error):
    arguments = (
        FAST | {"mode": "t2v", "latents": torch.randn(1, 16, 2, 4, 6), "guidance_scale": 1} | embeddings
    )
    expected = embeddings_only_pipeline(**arguments).frames
    sample = embeddings_only_pipeline.to(torch.bfloat16)(**arguments).frames
    assert sample.dtype == torch.float32
    assert relative_error(sample, expected) < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "v2v"}, "unknown mode 'v2v'"),
        ({"reference_latents": None}, "mode v2v_head needs frames or reference_latents"),
        ({"mode": "t2v"}, "mode t2v takes no frames or reference_latents"),
        ({"frames": torch.rand(1, 33, 3, 32, 48)}, "frames or reference_latents, not both"),
        ({"reference_latents": None, "frames": torch.rand(1, 33, 3, 32, 48)}, "has no VAE"),
        ({"num_frames": 33}, "leaves none of the 9 to generate"),
        ({"output_type": "gif"}, "output_type must be one of latent, pt, np, pil"),
        ({"output_type": "pil"}, "has no VAE"),
        ({"pooled_prompt_embeds": None}, "pass both of prompt_embeds and pooled_prompt_embeds"),
        ({"prompt_embeds": None, "pooled_prompt_embeds": None}, "pass prompt, or prompt_embeds"),
        ({"prompt_embeds": torch.zeros(1, 16, 47)}, r"\(1, 16, 47\) and \(1, 24\) must be \(B, L, 48\)"),
        ({"negative_prompt_embeds": None, "negative_pooled_prompt_embeds": None}, "has no text encoders"),
        ({"negative_prompt_embeds": torch.zeros(1, 8, 48)}, "negative embeddings of shape"),
        ({"num_inference_steps": 0}, "num_inference_steps must be positive"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "callbacks can receive"),
    ],
)
def test_wrong_inputs_are_refused(embeddings_only_pipeline, embeddings, mmdit_io, changes, message):
    arguments = FAST | embeddings | {"reference_latents": mmdit_io["reference_latents"]} | changes
    with pytest.raises(ValueError, match=message):
        embeddings_only_pipeline(**arguments)
