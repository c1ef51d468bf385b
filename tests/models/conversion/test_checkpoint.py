import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, T5ForConditionalGeneration

from lora_tta.errors import UserError
from lora_tta.models import load_pipeline
from lora_tta.models.conversion.checkpoint import convert_checkpoint


@pytest.fixture
def published_files(reference_folder, text_components, tmp_path):
    """Tiny checkpoints as published: whole T5 and CLIP models beside the transformer and the VAE."""
    t5 = T5ForConditionalGeneration(text_components["text_encoder"].config)
    t5.encoder.load_state_dict(text_components["text_encoder"].encoder.state_dict())
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=8,
        patch_size=8,
    )
    text_config = text_components["text_encoder_2"].config
    clip = CLIPModel(CLIPConfig(text_config=text_config.to_dict(), vision_config=vision.to_dict()))
    clip.text_model.load_state_dict(text_components["text_encoder_2"].state_dict(), strict=False)
    t5.save_pretrained(tmp_path / "t5")
    clip.save_pretrained(tmp_path / "clip")
    text_components["tokenizer"].save_pretrained(tmp_path / "t5")
    text_components["tokenizer_2"].save_pretrained(tmp_path / "clip")
    return {
        "transformer_file": reference_folder / "mmdit.safetensors",
        "vae_file": reference_folder / "vae.safetensors",
        "t5_folder": tmp_path / "t5",
        "clip_folder": tmp_path / "clip",
    }


@pytest.fixture
def tiny_sizes(mmdit_config, vae_config):
    return {"transformer_config": mmdit_config, "vae_config": vae_config}


def test_converted_folder_is_the_same_pipeline(pipeline, published_files, tiny_sizes, tmp_path):
    folder = convert_checkpoint(
        **published_files, output_folder=tmp_path / "out", max_shard_size=300_000, **tiny_sizes
    )
    shards = sorted((folder / "transformer").glob("*.safetensors"))
    assert len(shards) > 5
    assert all(shard.stat().st_size < 330_000 for shard in shards)
    assert (folder / "transformer/diffusion_pytorch_model.safetensors.index.json").is_file()
    assert not list((folder / "text_encoder").glob("*.index.json"))

    loaded = load_pipeline(folder, dtype=torch.float32)
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        expected = getattr(pipeline, name).state_dict()
        actual = getattr(loaded, name).state_dict()
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[key], expected[key]) for key in expected)
    arguments = {"mode": "t2v", "latents": torch.randn(1, 16, 2, 4, 6), "num_inference_steps": 2}
    torch.testing.assert_close(
        loaded("a dog", output_type="pt", **arguments).frames,
        pipeline("a dog", output_type="pt", **arguments).frames,
        rtol=1e-4,
        atol=1e-5,
    )


def test_other_formats_are_refused_before_anything_is_written(published_files, tiny_sizes, tmp_path):
    pickled = tmp_path / "Open_Sora_v2.pt"
    pickled.touch()
    with pytest.raises(UserError, match=r"Open_Sora_v2\.pt is not a \.safetensors file"):
        convert_checkpoint(
            **(published_files | {"transformer_file": pickled}), output_folder=tmp_path / "out", **tiny_sizes
        )
    only_bin = tmp_path / "bin"
    only_bin.mkdir()
    (only_bin / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"bin has no \.safetensors file"):
        convert_checkpoint(
            **(published_files | {"t5_folder": only_bin}), output_folder=tmp_path / "out", **tiny_sizes
        )
    assert not (tmp_path / "out").exists()


def test_damaged_and_missing_files_are_named(published_files, tiny_sizes, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not a checkpoint")
    for file, message in (
        (damaged, "damaged.safetensors is no valid safetensors file"),
        (tmp_path / "absent.safetensors", "absent.safetensors does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            convert_checkpoint(
                **(published_files | {"vae_file": file}), output_folder=tmp_path / "out", **tiny_sizes
            )


def test_a_folder_without_its_tokenizer_is_named(published_files, tiny_sizes, tmp_path):
    for file in (tmp_path / "clip").glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match="clip holds no tokenizer"):
        convert_checkpoint(**published_files, output_folder=tmp_path / "out", **tiny_sizes)


def test_checkpoints_of_other_sizes_are_refused_with_their_keys(published_files, tiny_sizes, tmp_path):
    with pytest.raises(UserError, match="instead of"):
        convert_checkpoint(**published_files, output_folder=tmp_path / "out")

    incomplete = tmp_path / "incomplete.safetensors"
    save_file({"img_in.bias": torch.zeros(64)}, incomplete)
    with pytest.raises(UserError, match=r"missing: .* and \d+ more"):
        convert_checkpoint(
            **(published_files | {"transformer_file": incomplete}),
            output_folder=tmp_path / "out",
            **tiny_sizes,
        )
    save_file({"shared.weight": torch.zeros(4, 4)}, published_files["t5_folder"] / "model.safetensors")
    with pytest.raises(UserError, match=r"t5 lacks the tensors encoder\.block\.0"):
        convert_checkpoint(**published_files, output_folder=tmp_path / "out", **tiny_sizes)


def test_existing_output_is_kept(published_files, tiny_sizes, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out exists"):
        convert_checkpoint(**published_files, output_folder=tmp_path / "out", **tiny_sizes)


def test_interrupted_conversion_leaves_nothing(published_files, tiny_sizes, tmp_path, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("lora_tta.models.conversion.checkpoint.save_file", full_disk)
    before = set(tmp_path.iterdir())
    with pytest.raises(OSError, match="no space left"):
        convert_checkpoint(**published_files, output_folder=tmp_path / "out", **tiny_sizes)
    assert set(tmp_path.iterdir()) == before


def test_index_tells_the_one_shard_that_holds_a_tensor(published_files, tiny_sizes, tmp_path):
    folder = convert_checkpoint(
        **published_files, output_folder=tmp_path / "out", max_shard_size="100KB", **tiny_sizes
    )
    index_file = folder / "transformer/diffusion_pytorch_model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    stored = [(key, path.name) for path in index_file.parent.glob("*.safetensors") for key in load_file(path)]
    assert sorted(stored) == sorted(index["weight_map"].items())
    published = load_file(published_files["transformer_file"])
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in published.values())
