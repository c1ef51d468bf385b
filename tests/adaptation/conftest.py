import pytest
import torch

from lora_tta.adaptation.conditioning import Conditioning
from lora_tta.models.loading import load_pipeline


@pytest.fixture
def pipeline(tiny_model):
    return load_pipeline(tiny_model, "cpu", torch.float32)


@pytest.fixture
def conditioning():
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    return Conditioning(
        reference_latents=normal(1, 16, 9, 4, 6),
        prompt_embeds=normal(1, 16, 16),
        pooled_prompt_embeds=normal(1, 16),
        negative_prompt_embeds=normal(1, 16, 16),
        negative_pooled_prompt_embeds=normal(1, 16),
    )
