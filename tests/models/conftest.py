"""The published code's reference data, and pipelines made of models small enough for a test."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from published_weights import convert_transformer, convert_vae
from safetensors.torch import load_file
from tiny_model import TEXT_LENGTH, tiny_text_components

from lora_tta.models import OpenSoraContinuationPipeline

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    """A compiler that has seen nothing yet, and whose options are put back."""
    options = torch._dynamo.config.save_config()
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.load_config(options)


@pytest.fixture(scope="session")
def reference_folder():
    return REFERENCE


@pytest.fixture(scope="session")
def mmdit_config():
    return json.loads((REFERENCE / "mmdit_config.json").read_text())


@pytest.fixture(scope="session")
def vae_config():
    return json.loads((REFERENCE / "vae_config.json").read_text())


@pytest.fixture
def mmdit_state_dict():
    return load_file(REFERENCE / "mmdit.safetensors")


@pytest.fixture
def mmdit_io():
    return load_file(REFERENCE / "mmdit_io.safetensors")


@pytest.fixture
def vae_io():
    return load_file(REFERENCE / "vae_io.safetensors")


@pytest.fixture
def transformer(mmdit_state_dict, mmdit_config):
    return convert_transformer(mmdit_state_dict, mmdit_config)


@pytest.fixture
def transformer_inputs(mmdit_io):
    """Arguments of one forward pass: t = 0.37, 17 latent frames, 16 text tokens."""
    return {
        "hidden_states": mmdit_io["packed_tokens"],
        "img_ids": mmdit_io["img_ids"][0],
        "encoder_hidden_states": mmdit_io["t5"],
        "txt_ids": torch.zeros(TEXT_LENGTH, 3),
        "timestep": mmdit_io["timestep"],
        "pooled_projections": mmdit_io["clip"],
        "condition": mmdit_io["packed_condition"],
    }


@pytest.fixture(scope="session")
def vae(vae_config):
    return convert_vae(load_file(REFERENCE / "vae.safetensors"), vae_config)


@pytest.fixture(scope="session")
def text_components(mmdit_config):
    """A T5 encoder and a CLIP text model over bytes, of the widths the reference transformer expects."""
    torch.manual_seed(0)
    return tiny_text_components(mmdit_config["context_in_dim"], mmdit_config["vec_in_dim"])


@pytest.fixture
def pipeline(transformer, vae, text_components):
    """A pipeline with every component; 17 latent frames of 4x6 take some milliseconds a step."""
    pipeline = OpenSoraContinuationPipeline(
        transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(), **text_components
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def embeddings_only_pipeline(transformer):
    """A pipeline of a transformer and a scheduler alone."""
    pipeline = OpenSoraContinuationPipeline(
        transformer=transformer, vae=None, scheduler=FlowMatchEulerDiscreteScheduler()
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def embeddings(mmdit_io):
    """The reference text embeddings as arguments of the pipeline."""
    return {
        "prompt_embeds": mmdit_io["t5"],
        "pooled_prompt_embeds": mmdit_io["clip"],
        "negative_prompt_embeds": mmdit_io["t5_negative"],
        "negative_pooled_prompt_embeds": mmdit_io["clip_negative"],
    }


@pytest.fixture(scope="session")
def relative_error():
    """Norm of the difference of two tensors relative to the second's."""
    return lambda actual, expected: ((actual - expected).norm() / expected.norm()).item()
