"""The one tiny model of the tests: its sizes, and its parts with random weights."""

from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler
from transformers import ByT5Tokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from lora_tta.models import OpenSoraContinuationPipeline, OpenSoraTransformer3DModel

TEXT_LENGTH = 16
TEXT_WIDTH = 16
TINY_TRANSFORMER = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT_WIDTH,
    "pooled_projection_dim": TEXT_WIDTH,
    "axes_dims_rope": (4, 6, 6),
}


def tiny_transformer(**sizes: Any) -> OpenSoraTransformer3DModel:
    """The transformer, or one of other sizes where a test needs them."""
    torch.manual_seed(0)
    return OpenSoraTransformer3DModel(**(TINY_TRANSFORMER | sizes)).eval()


def tiny_text_components(width: int = TEXT_WIDTH, pooled_width: int = TEXT_WIDTH) -> dict[str, Any]:
    """Both tokenizers, which read bytes, and both text encoders, by their names in the pipeline."""
    t5 = T5Config(vocab_size=384, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    clip = CLIPTextConfig(
        vocab_size=384,
        hidden_size=pooled_width,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )
    return {
        "tokenizer": ByT5Tokenizer(model_max_length=TEXT_LENGTH),
        "text_encoder": T5EncoderModel(t5).eval(),
        "tokenizer_2": ByT5Tokenizer(model_max_length=TEXT_LENGTH),
        "text_encoder_2": CLIPTextModel(clip).eval(),
    }


def tiny_pipeline() -> OpenSoraContinuationPipeline:
    """A pipeline with every component."""
    return OpenSoraContinuationPipeline(
        transformer=tiny_transformer(),
        vae=AutoencoderKLHunyuanVideo(block_out_channels=(4, 4, 4, 4), norm_num_groups=2, layers_per_block=0),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **tiny_text_components(),
    )
