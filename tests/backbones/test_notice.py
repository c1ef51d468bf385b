"""The sentence that must be read with every number of a small model."""

import json
from pathlib import Path

import pytest

from lora_tta.backbones import SMALL, model_notice
from lora_tta.config import ModelParams, Params


def write_header(file: Path, *shapes: list[int]) -> None:
    """A safetensors file as far as its header, which is all that the number of parameters takes."""
    entries = {f"layer_{i}": {"dtype": "BF16", "shape": shape} for i, shape in enumerate(shapes)}
    header = json.dumps({"__metadata__": {"format": "pt"}} | entries).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.fixture
def model(params: Params, tmp_path: Path) -> ModelParams:
    return params.model.model_copy(update={"path": tmp_path / "model"})


def test_a_model_of_many_parameters_has_no_notice(model):
    write_header(model.path / "transformer" / "shard-1.safetensors", [SMALL // 1000, 500])
    write_header(model.path / "transformer" / "shard-2.safetensors", [SMALL // 1000, 400], [SMALL // 10])
    assert model_notice(model) is None


def test_a_smaller_one_has_a_sentence_with_its_size_and_the_model_that_it_stands_for(model):
    write_header(model.path / "transformer" / "model.safetensors", [1000, 1200], [50])
    write_header(model.path / "vae" / "model.safetensors", [300, 1000])
    assert model_notice(model) == (
        "These numbers come from a small model of 1.5 million parameters. They say nothing about "
        "Open-Sora v2.0."
    )


def test_a_real_folder_of_a_model_is_counted_whole(params, pipeline):
    parts = (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    parameters = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert f"{parameters / 1e6:.1f} million" in model_notice(params.model)
