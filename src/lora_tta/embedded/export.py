"""Put the trained parts together into a pipeline folder.

``python -m lora_tta.embedded.export --vae DIR --transformer DIR --output DIR``
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler
from transformers import CLIPTextModel, T5EncoderModel

from lora_tta.embedded.recipe import TransformerRecipe
from lora_tta.embedded.train_transformer import build_tokenizer
from lora_tta.files import atomic
from lora_tta.models.pipeline import OpenSoraContinuationPipeline
from lora_tta.models.transformer import OpenSoraTransformer3DModel


def export_pipeline(vae: Path, trained: Path, output: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a pipeline folder with one weight file for each model; an existing folder is replaced.

    Args:
        vae: folder of the trained VAE.
        trained: output folder of the transformer's training, with the text encoders beside it.
        output: the pipeline folder.
        dtype: of the weights.
    """
    vae, trained, output = Path(vae), Path(trained), Path(output)
    tokenizer = build_tokenizer(TransformerRecipe().max_text_tokens)
    pipeline = OpenSoraContinuationPipeline(
        transformer=OpenSoraTransformer3DModel.from_pretrained(trained / "transformer"),
        vae=AutoencoderKLHunyuanVideo.from_pretrained(vae),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        tokenizer=tokenizer,
        text_encoder=T5EncoderModel.from_pretrained(trained / "text_encoder"),
        tokenizer_2=tokenizer,
        text_encoder_2=CLIPTextModel.from_pretrained(trained / "text_encoder_2"),
    ).to(dtype=dtype)
    for model in (pipeline.transformer, pipeline.vae):
        model.register_to_config(_name_or_path="")  # or the files would name folders of this machine
    with atomic(output) as partial:
        pipeline.save_pretrained(partial)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True, help="folder of the trained VAE")
    parser.add_argument("--transformer", type=Path, required=True, help="output folder of its training")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    export_pipeline(arguments.vae, arguments.transformer, arguments.output)


if __name__ == "__main__":
    main()
