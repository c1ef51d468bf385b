"""A pipeline folder of random weights: transformer and VAE of the published sizes, small text encoders.

python benchmarks/random_folder.py --folder /scratch/random-model
"""

import argparse
import os
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from random_model import build_transformer, build_vae
from transformers import ByT5Tokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from lora_tta.models import OpenSoraContinuationPipeline

TEXT_LENGTH, VOCABULARY = 512, 384


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    device, dtype = torch.device(arguments.device), torch.bfloat16
    torch.manual_seed(0)
    transformer = build_transformer(arguments.tiny, device, dtype)
    width, pooled = transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim
    t5 = T5Config(vocab_size=VOCABULARY, d_model=width, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    clip = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=pooled,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    tokenizer = ByT5Tokenizer(model_max_length=TEXT_LENGTH)
    OpenSoraContinuationPipeline(
        transformer,
        build_vae(arguments.tiny, device, dtype),
        FlowMatchEulerDiscreteScheduler(),
        tokenizer=tokenizer,
        text_encoder=T5EncoderModel(t5).to(dtype),
        tokenizer_2=tokenizer,
        text_encoder_2=CLIPTextModel(clip).to(dtype),
    ).save_pretrained(arguments.folder, max_shard_size="5GB")
    os.sync()


if __name__ == "__main__":
    main()
