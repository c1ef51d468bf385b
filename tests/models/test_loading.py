import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_tta.errors import UserError
from lora_tta.models import OpenSoraContinuationPipeline, load_pipeline, memory
from lora_tta.models.loading import (
    FOR_ENCODING,
    FOR_GENERATION,
    MODEL_CLASSES,
    check_pipeline_folder,
    stream_model,
)
from lora_tta.models.memory import count_parameters

CPU = torch.device("cpu")


@pytest.fixture
def folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path, max_shard_size="500KB")
    return tmp_path


def test_a_pipeline_loads_in_the_asked_dtype_and_codes_whole_videos(folder):
    pipeline = load_pipeline(folder, device="cpu", dtype=torch.bfloat16)
    models = (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {model.dtype for model in models} == {torch.bfloat16}
    assert not pipeline.vae.use_framewise_encoding
    assert not pipeline.vae.use_framewise_decoding
    assert not pipeline.vae.use_tiling


def test_loaded_weights_are_the_saved_ones(folder, pipeline):
    loaded = load_pipeline(folder, dtype=torch.float32)
    saved = pipeline.transformer.state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in loaded.transformer.state_dict().items())


@pytest.mark.parametrize("name", ["transformer", "vae"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streamed_models_are_those_that_diffusers_loads(folder, name, dtype):
    files = check_pipeline_folder(folder)[name]
    expected = getattr(load_pipeline(folder, dtype=dtype), name)
    streamed = stream_model(type(expected), folder / name, files, torch.device("cpu"), dtype)
    assert streamed.dtype == dtype
    assert not streamed.training
    assert streamed.config == expected.config
    expected_state, state = expected.state_dict(), streamed.state_dict()
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(value, expected_state[key]) for key, value in state.items())
    expected_buffers = dict(expected.named_buffers())
    assert all(torch.equal(value, expected_buffers[key]) for key, value in streamed.named_buffers())


@pytest.fixture
def refused(folder):
    """The one line with which a model is refused, loaded by its library or streamed."""

    def stream() -> None:
        files = check_pipeline_folder(folder)
        count_parameters(path for paths in files.values() for path in paths)
        for name in ("transformer", "vae"):
            stream_model(MODEL_CLASSES[name], folder / name, files[name], CPU, torch.float32)

    def line_of(streamed: bool) -> str:
        with pytest.raises(UserError) as caught:
            stream() if streamed else load_pipeline(folder, dtype=torch.float32)
        line = str(caught.value)
        assert "\n" not in line
        return line

    return line_of


def change_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("damage", ["cut short", "pickled", "empty", "text"])
@pytest.mark.parametrize("name", ["transformer/diffusion_pytorch_model-00002-of-00004", "text_encoder/model"])
def test_a_file_that_is_no_whole_file_of_safetensors_is_named(folder, refused, name, damage, streamed):
    path = folder / f"{name}.safetensors"
    content = path.read_bytes()
    pickled = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, pickled)
    path.write_bytes(
        {"cut short": content[:-100], "pickled": pickled.getvalue(), "empty": b"", "text": b"x" * 99}[damage]
    )
    assert f"{path} is no whole file of safetensors" in refused(streamed)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_wrong_shape_an_extra_and_a_missing_key_are_named_with_their_file(folder, refused, streamed):
    key = "decoder.conv_in.conv.weight"
    (path,) = (path for path in (folder / "vae").glob("*.safetensors") if key in load_file(path))
    original = path.read_bytes()
    change_weights(path, lambda weights: weights.update({key: weights[key][:1].clone()}))
    assert re.match(rf"{path} holds other weights.*: {key} has the shape \(1, .* and not", refused(streamed))

    path.write_bytes(original)
    change_weights(path, lambda weights: weights.update({"decoder.more": torch.zeros(1)}))
    assert f"{path} holds other weights" in (line := refused(streamed))
    assert "decoder.more is not of this model" in line

    path.write_bytes(original)
    change_weights(path, lambda weights: weights.pop(key))
    assert f"{path.parent} holds other weights" in (line := refused(streamed))
    assert f"{key} is missing in " in line
    assert path.name in line


def test_the_keys_of_a_text_encoder_are_checked_too(folder, refused):
    path, key = folder / "text_encoder/model.safetensors", "encoder.final_layer_norm.weight"
    original = path.read_bytes()
    change_weights(path, lambda weights: weights.update({"encoder.more": torch.zeros(1)}))
    assert f"{path} holds other weights" in (line := refused(streamed=False))
    assert "encoder.more is not of this model" in line
    path.write_bytes(original)
    change_weights(path, lambda weights: weights.pop(key))
    assert f"{key} is missing in {path.name}" in refused(streamed=False)
    path.write_bytes(original)
    change_weights(path, lambda weights: weights.update({key: torch.zeros(3)}))
    assert f"{path} holds other weights" in (line := refused(streamed=False))
    assert f"{key} has the shape (3,)" in line


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("transformer/config.json", "{", "is damaged"),
        ("transformer/config.json", "[]", "holds no mapping"),
        ("transformer/config.json", {"num_heads_of_another": 3}, "has the key num_heads_of_another"),
        ("transformer/config.json", {"_class_name": "FluxTransformer2DModel"}, "another model (Flux"),
        ("transformer/config.json", {"num_layers": "two"}, "cannot be used as a OpenSoraTransformer3DModel"),
        ("text_encoder/config.json", {"model_type": "bert"}, "another model (bert)"),
        ("text_encoder/config.json", {"num_heads": "two"}, "cannot be used as a T5EncoderModel"),
        ("scheduler/scheduler_config.json", "{", "is damaged"),
        ("tokenizer/tokenizer_config.json", "\0", "is damaged"),
        ("model_index.json", "{", "is damaged"),
        ("model_index.json", {"unet": ["diffusers", "UNet2DModel"]}, "(it has the component unet)"),
        ("model_index.json", {"transformer": [None, None]}, "(it has no transformer)"),
        ("transformer/diffusion_pytorch_model.safetensors.index.json", "{", "is damaged"),
        ("transformer/diffusion_pytorch_model.safetensors.index.json", {"weight_map": []}, "is damaged"),
        (
            "transformer/diffusion_pytorch_model.safetensors.index.json",
            {"weight_map": {"proj_out.weight": "../../other.safetensors"}},
            "names no files beside it",
        ),
    ],
)
def test_a_config_that_is_damaged_or_of_another_model_is_named(folder, refused, name, change, said):
    path = folder / name
    content = change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change)
    path.write_text(content)
    line = refused(streamed=False)
    assert line.startswith(str(path))
    assert said in line


def test_pipelines_without_text_encoders_load(embeddings_only_pipeline, tmp_path):
    embeddings_only_pipeline.save_pretrained(tmp_path)
    assert load_pipeline(tmp_path).text_encoder is None


@pytest.mark.parametrize(
    ("components", "models"),
    [
        (FOR_GENERATION, {"transformer", "vae"}),
        (FOR_ENCODING, {"vae", "text_encoder", "text_encoder_2"}),
    ],
    ids=["generation", "encoding"],
)
def test_what_is_not_asked_for_stays_on_the_disk_and_takes_no_memory(folder, monkeypatch, components, models):
    loaded = load_pipeline(folder, components=components)
    assert {name for name, part in loaded.components.items() if part is not None} == set(components)
    needed = 2 * sum(getattr(loaded, name).num_parameters() for name in models)
    for available, fits in [(needed, True), (needed - 1, False)]:
        monkeypatch.setattr(memory, "available_memory", lambda device, number=available: number)
        if fits:
            load_pipeline(folder, components=components)
        else:
            with pytest.raises(UserError, match="available"):
                load_pipeline(folder, components=components)


@pytest.mark.parametrize(
    "missing",
    [
        "transformer/diffusion_pytorch_model-00002-of-00004.safetensors",
        "vae/config.json",
        "text_encoder/model.safetensors",
        "tokenizer_2/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_missing_files_are_named_with_where_to_get_them(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(
        UserError, match="missing: the weights are published as hpcai-tech/Open-Sora-v2"
    ) as error:
        load_pipeline(folder)
    assert missing in str(error.value)
    assert "lora-tta convert" in str(error.value)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"is no pipeline folder, model_index\.json is missing"):
        load_pipeline(tmp_path)


def test_memory_is_checked_before_anything_is_loaded(folder, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 1000)
    monkeypatch.setattr(OpenSoraContinuationPipeline, "from_pretrained", None)
    with pytest.raises(UserError, match=r"the pipeline in .* needs .* available"):
        load_pipeline(folder)
