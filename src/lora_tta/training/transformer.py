"""Train the embedded model's transformer and text encoders on latents of its finished VAE.

`python -m lora_tta.training.transformer --vae DIR --output DIR`
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import ByT5Tokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from lora_tta.data.synthetic import TRAINING_CLASSES
from lora_tta.data.ucf101 import caption_of
from lora_tta.models.frames import disable_framewise_coding, encode_video
from lora_tta.models.packing import (
    build_condition,
    get_condition_mode,
    pack_condition,
    pack_latents,
    prepare_img_ids,
    prepare_txt_ids,
)
from lora_tta.models.scheduling import add_noise, shift_timesteps, time_shift_alpha, velocity_target
from lora_tta.models.transformer import OpenSoraTransformer3DModel
from lora_tta.training.loop import completed_steps, optimise, step_generator
from lora_tta.training.recipe import TransformerRecipe, describe
from lora_tta.training.scenes import render_videos, scene_batches

EMPTY_PROMPT = len(TRAINING_CLASSES)  # row of the empty prompt, after one caption per class


def build_tokenizer(max_text_tokens: int) -> ByT5Tokenizer:
    """The byte-level tokenizer of both text encoders; it has no vocabulary file."""
    return ByT5Tokenizer(model_max_length=max_text_tokens)


class TextConditionedTransformer(nn.Module):
    """What is trained together: the transformer and the text encoders whose outputs it reads."""

    def __init__(self, recipe: TransformerRecipe) -> None:
        super().__init__()
        self.transformer = OpenSoraTransformer3DModel(**recipe.config)
        self.text_encoder = T5EncoderModel(T5Config(**recipe.text_encoder))
        self.text_encoder_2 = CLIPTextModel(CLIPTextConfig(**recipe.text_encoder_2))
        self._start_as_identity()
        prompts = [caption_of(name) for name in TRAINING_CLASSES] + [""]
        tokens = build_tokenizer(recipe.max_text_tokens)(prompts, padding="max_length", return_tensors="pt")
        self.register_buffer("prompt_ids", tokens.input_ids, persistent=False)

    def _start_as_identity(self) -> None:
        """Start every block as the identity and the output at zero (DiT, https://arxiv.org/abs/2212.09748)."""
        for name, module in self.transformer.named_modules():
            is_modulation = name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear"))
            if is_modulation or name in ("norm_out.linear", "proj_out"):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor, prompts: Tensor) -> Tensor:
        """Predict the velocity tokens.

        Args:
            noisy: latents x_t (B, C, T, H, W).
            timesteps: t in [0, 1], (B,).
            condition: packed condition tokens (B, N, 68).
            prompts: row of each clip's prompt in `prompt_ids`, (B,).
        """
        embeds = self.text_encoder(self.prompt_ids).last_hidden_state[prompts]
        pooled = self.text_encoder_2(self.prompt_ids).pooler_output[prompts]
        return self.transformer(
            hidden_states=pack_latents(noisy),
            img_ids=prepare_img_ids(*noisy.shape[2:], noisy.device),
            encoder_hidden_states=embeds,
            txt_ids=prepare_txt_ids(embeds.shape[1], noisy.device),
            timestep=timesteps,
            pooled_projections=pooled,
            condition=condition,
        ).sample


@dataclass
class LatentClips:
    """Latents of rendered clips, each encoded as the model meets it: whole, and every condition alone.

    Attributes:
        latents: (B, C, T, H, W) of the whole clips.
        references: for each mode with a condition, the latents of its frames encoded alone.
        prompts: (B,) row of each clip's caption.
    """

    latents: Tensor
    references: dict[str, Tensor]
    prompts: Tensor


class LatentBuffer:
    """The newest training clips as latents on the device; fresh ones replace the oldest.

    Clip i lies in slot i modulo the size, so an interrupted training finds the same buffer again by encoding
    the clips that were in it.
    """

    def __init__(
        self,
        recipe: TransformerRecipe,
        vae: AutoencoderKLHunyuanVideo,
        first_step: int,
        accelerator: Accelerator,
        num_workers: int,
    ) -> None:
        self.recipe, self.vae, self.accelerator = recipe, vae, accelerator
        self.stored: LatentClips | None = None
        refreshes = -(-recipe.optimisation.steps // recipe.refresh_every)
        past = max(0, first_step - 1) // recipe.refresh_every
        self.next_clip = past * recipe.fresh_clips
        self.drawn = scene_batches(
            recipe.video,
            recipe.fresh_clips,
            first_seed=self.next_clip,
            num_batches=recipe.buffer_size // recipe.fresh_clips + refreshes - past,
            device=accelerator.device,
            num_workers=num_workers,
        )
        for _ in range(recipe.buffer_size // recipe.fresh_clips):
            self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Render and encode the next clips into the slots of the oldest."""
        scenes, class_index = next(self.drawn)
        videos = render_videos(scenes, self.recipe.video)
        conditions = {name: mode for name in self.recipe.modes if (mode := get_condition_mode(name))}
        with self.accelerator.autocast():
            latents = encode_video(self.vae, videos)
            references = {
                name: encode_video(self.vae, videos[:, :, : mode.num_frames])
                for name, mode in conditions.items()
            }
        if self.stored is None:
            size = self.recipe.buffer_size
            self.stored = LatentClips(
                latents.new_zeros(size, *latents.shape[1:]),
                {name: value.new_zeros(size, *value.shape[1:]) for name, value in references.items()},
                torch.zeros(size, dtype=torch.long, device=latents.device),
            )
        slots = (self.next_clip + torch.arange(len(latents), device=latents.device)) % self.recipe.buffer_size
        self.stored.latents[slots] = latents
        self.stored.prompts[slots] = class_index.to(latents.device)
        for name, value in references.items():
            self.stored.references[name][slots] = value
        self.next_clip += len(latents)

    def draw(self, generator: torch.Generator) -> LatentClips:
        """A random batch."""
        size, batch_size = self.recipe.buffer_size, self.recipe.optimisation.batch_size
        rows = torch.randint(size, (batch_size,), generator=generator, device=self.stored.latents.device)
        references = {name: value[rows] for name, value in self.stored.references.items()}
        return LatentClips(self.stored.latents[rows], references, self.stored.prompts[rows])


def draw_conditions(
    clips: LatentClips, recipe: TransformerRecipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a mode for each clip and drop prompts and conditions for guidance.

    Returns:
        Packed conditions (B, N, 68) and prompt rows (B,).
    """
    shape, device = clips.latents.shape, clips.latents.device
    shares = torch.tensor(list(recipe.modes.values()), device=device)
    chosen = torch.multinomial(shares, shape[0], replacement=True, generator=generator)
    dropped, unconditional = torch.rand(2, shape[0], generator=generator, device=device).split(1)
    unconditional = unconditional[0] < recipe.unconditional
    condition = 0
    for index, name in enumerate(recipe.modes):
        mask, reference = build_condition(name, clips.references.get(name), tuple(shape))
        use = ((chosen == index) & ~unconditional)[:, None, None]
        condition = condition + use * pack_condition(mask.to(device), reference.to(device))
    drop = (dropped[0] < recipe.prompt_dropout) | unconditional
    return condition, torch.where(drop, EMPTY_PROMPT, clips.prompts)


def train_transformer(
    recipe: TransformerRecipe,
    vae: AutoencoderKLHunyuanVideo,
    output: Path,
    resume: bool = False,
    checkpoint_every: int = 1000,
    num_workers: int = 4,
    stop_after: int | None = None,
) -> TextConditionedTransformer:
    """Train transformer and text encoders; write them, in float32, to folders in `output`; returns them."""
    settings, output = recipe.optimisation, Path(output)
    accelerator = Accelerator(mixed_precision=settings.mixed_precision)
    set_seed(settings.seed)
    model = TextConditionedTransformer(recipe)
    if settings.compile:
        model.transformer.compile_repeated_blocks()
    first_step = completed_steps(output) if resume else 0
    vae = disable_framewise_coding(vae).to(accelerator.device).requires_grad_(False)
    buffer = LatentBuffer(recipe, vae, first_step, accelerator, num_workers)
    _, _, frames, height, width = buffer.stored.latents.shape
    alpha = time_shift_alpha(height * width // 4, frames)

    def loss_of_step(prepared: nn.Module, step: int) -> Tensor:
        if step % recipe.refresh_every == 0 and step > 0:
            buffer.refresh()
        generator = step_generator(settings.seed, step, accelerator.device)
        clips = buffer.draw(generator)
        condition, prompts = draw_conditions(clips, recipe, generator)
        noise = torch.randn(clips.latents.shape, generator=generator, device=accelerator.device)
        normal = torch.randn(len(noise), generator=generator, device=accelerator.device)
        timesteps = shift_timesteps(normal.sigmoid(), alpha)
        velocity = prepared(add_noise(clips.latents, noise, timesteps), timesteps, condition, prompts)
        return mse_loss(velocity.float(), pack_latents(velocity_target(clips.latents, noise)))

    done = optimise(
        accelerator, model, loss_of_step, settings, output, first_step, checkpoint_every, stop_after
    )
    if done and accelerator.is_main_process:
        for name in ("transformer", "text_encoder", "text_encoder_2"):
            getattr(model, name).save_pretrained(output / name)
        (output / "recipe.json").write_text(json.dumps(describe(recipe), indent=2))
    return model


def main() -> None:
    """Command line."""
    torch.set_float32_matmul_precision("high")
    recipe = TransformerRecipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True, help="folder of the trained VAE")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    parser.add_argument("--steps", type=int, default=recipe.optimisation.steps)
    parser.add_argument("--batch-size", type=int, default=recipe.optimisation.batch_size)
    parser.add_argument("--seed", type=int, default=recipe.optimisation.seed)
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=recipe.optimisation.compile
    )
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args()
    settings = replace(
        recipe.optimisation,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        compile=arguments.compile,
    )
    train_transformer(
        replace(recipe, optimisation=settings),
        AutoencoderKLHunyuanVideo.from_pretrained(arguments.vae),
        arguments.output,
        arguments.resume,
        num_workers=arguments.workers,
    )


if __name__ == "__main__":
    main()
