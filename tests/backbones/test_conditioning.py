import pytest
import torch

from lora_tta.backbones.conditioning import Conditioning, encode_conditioning


def test_a_clip_is_encoded_to_nine_latent_frames_and_its_captions_embeddings(pipeline, moving_frames):
    conditioning = encode_conditioning(pipeline, moving_frames[:33, :32, :48], "bouncing ball")
    assert conditioning.reference_latents.shape == (1, 16, 9, 4, 6)
    assert conditioning.prompt_embeds.shape == (1, 16, 16)
    assert not torch.equal(conditioning.prompt_embeds, conditioning.negative_prompt_embeds)


@pytest.mark.parametrize("num_frames", [32, 34, 65])
def test_nothing_but_the_33_conditioning_frames_is_taken(pipeline, moving_frames, num_frames):
    with pytest.raises(ValueError, match="33"):
        encode_conditioning(pipeline, moving_frames[:num_frames, :32, :48], "x")


def test_saved_and_loaded_conditionings_are_the_same(conditioning, tmp_path):
    conditioning.save(tmp_path / "clip.safetensors")
    loaded = Conditioning.load(tmp_path / "clip.safetensors")
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in conditioning.tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["clip.safetensors"]
