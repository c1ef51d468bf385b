import pytest
import torch

from lora_tta.errors import UserError
from lora_tta.models import OpenSoraContinuationPipeline, OpenSoraTransformer3DModel, load_pipeline, memory
from lora_tta.models.loading import FOR_ENCODING, FOR_GENERATION, check_pipeline_folder, stream_model


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


def test_streaming_refuses_weights_of_another_model(folder):
    files = check_pipeline_folder(folder)["transformer"][1:]
    with pytest.raises(UserError, match=r"holds other weights than its config\.json describes.*Missing key"):
        stream_model(
            OpenSoraTransformer3DModel, folder / "transformer", files, torch.device("cpu"), torch.float32
        )


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
