"""``lora-tta convert``: published Open-Sora v2.0 files to a diffusers folder."""

import argparse
from pathlib import Path
from typing import Any


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("convert", help="published Open-Sora v2.0 files to a diffusers folder")
    parser.add_argument("--transformer", type=Path, required=True, help="Open_Sora_v2.safetensors")
    parser.add_argument("--vae", type=Path, required=True, help="hunyuan_vae.safetensors")
    parser.add_argument("--t5", type=Path, required=True, help="folder of google/t5-v1_1-xxl")
    parser.add_argument("--clip", type=Path, required=True, help="folder of openai/clip-vit-large-patch14")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--max-shard-size", default="5GB")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Convert the files."""
    from lora_tta.models.conversion.checkpoint import convert_checkpoint

    convert_checkpoint(
        transformer_file=arguments.transformer,
        vae_file=arguments.vae,
        t5_folder=arguments.t5,
        clip_folder=arguments.clip,
        output_folder=arguments.output,
        max_shard_size=arguments.max_shard_size,
    )
