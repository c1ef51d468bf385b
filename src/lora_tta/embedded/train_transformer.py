"""Train the embedded model's transformer and text encoders in the latent space of its VAE.

``python -m lora_tta.embedded.train_transformer --latents FILE --output DIR``
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import ByT5Tokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from lora_tta.data.ucf101 import caption_of
from lora_tta.embedded.latents import LatentSpace
from lora_tta.embedded.loop import completed_steps, optimise, step_generator
from lora_tta.embedded.recipe import TransformerRecipe, describe
from lora_tta.embedded.scenes import render_videos, scene_batches
from lora_tta.embedded.synthetic import TRAINING_CLASSES
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

TRAINED_PARTS = ("transformer", "text_encoder", "text_encoder_2")
EMPTY_PROMPT = len(TRAINING_CLASSES)  # row of the empty prompt, after one caption per class


def build_tokenizer(max_text_tokens: int) -> ByT5Tokenizer:
    """The byte-level tokenizer of both text encoders; it has no vocabulary file."""
    return ByT5Tokenizer(model_max_length=max_text_tokens)


class TextConditionedTransformer(nn.Module):
    """The parts that are trained together: the transformer and the text encoders whose outputs it reads."""

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
            prompts: row of each clip's prompt in ``prompt_ids``, (B,).
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


class LatentBuffer:
    """The newest training clips as latents on the device; fresh ones replace the oldest.

    Clip i lies in slot i modulo the size, so an interrupted training finds the same buffer again by rendering
    the clips that were in it.

    Attributes:
        latents: (size, C, T, H, W).
        prompts: (size,) row of each clip's caption.
    """

    def __init__(
        self,
        recipe: TransformerRecipe,
        latent_space: LatentSpace,
        first_step: int,
        device: torch.device,
        num_workers: int,
    ) -> None:
        self.recipe, self.latent_space = recipe, latent_space.to(device)
        fills = recipe.buffer_size // recipe.fresh_clips
        past = max(0, first_step - 1) // recipe.refresh_every
        self.next_clip = past * recipe.fresh_clips
        self.drawn = scene_batches(
            recipe.video,
            recipe.fresh_clips,
            first_seed=self.next_clip,
            num_batches=fills + recipe.optimisation.steps // recipe.refresh_every + 1 - past,
            device=device,
            num_workers=num_workers,
        )
        video, size = recipe.video, recipe.buffer_size
        shape = (
            size,
            len(latent_space.bias),
            (video.num_frames - 1) // 4 + 1,
            video.height // 8,
            video.width // 8,
        )
        self.latents = torch.zeros(shape, device=device)
        self.prompts = torch.zeros(size, dtype=torch.long, device=device)
        for _ in range(fills):
            self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Render the next clips into the slots of the oldest."""
        scenes, class_index = next(self.drawn)
        slots = (self.next_clip + torch.arange(len(class_index))) % self.recipe.buffer_size
        slots = slots.to(self.latents.device)
        self.latents[slots] = self.latent_space.encode(render_videos(scenes, self.recipe.video))
        self.prompts[slots] = class_index.to(self.latents.device)
        self.next_clip += len(slots)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random batch: latents (B, C, T, H, W) and prompt rows (B,)."""
        size, batch_size = self.recipe.buffer_size, self.recipe.optimisation.batch_size
        rows = torch.randint(size, (batch_size,), generator=generator, device=self.latents.device)
        return self.latents[rows], self.prompts[rows]


def draw_conditions(
    latents: Tensor, prompts: Tensor, recipe: TransformerRecipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a mode for each clip and drop prompts and conditions for guidance.

    Blocks are projected one by one: the latents of frames encoded alone are the first ones of the whole clip.

    Returns:
        Packed conditions (B, N, 68) and prompt rows (B,).
    """
    batch, device = len(latents), latents.device
    shares = torch.tensor(list(recipe.modes.values()), device=device)
    chosen = torch.multinomial(shares, batch, replacement=True, generator=generator)
    drop_prompt, drop_all = torch.rand(2, batch, generator=generator, device=device)
    unconditional = drop_all < recipe.unconditional
    condition = torch.zeros((), device=device)
    for index, mode in enumerate(recipe.modes):
        known = get_condition_mode(mode)
        reference = latents[:, :, : known.num_latent_frames] if known else None
        mask, masked_reference = build_condition(mode, reference, tuple(latents.shape))
        use = ((chosen == index) & ~unconditional)[:, None, None]
        condition = condition + use * pack_condition(mask, masked_reference).to(device)
    drop = (drop_prompt < recipe.prompt_dropout) | unconditional
    return condition, torch.where(drop, EMPTY_PROMPT, prompts)


def train_transformer(
    recipe: TransformerRecipe,
    latent_space: LatentSpace,
    output: Path,
    resume: bool = False,
    checkpoint_every: int = 500,
    num_workers: int = 4,
    stop_after: int | None = None,
    initial: Path | None = None,
) -> TextConditionedTransformer:
    """Train transformer and text encoders and return them.

    Every checkpoint also writes them, in float32, to folders in ``output``. With ``initial``, a folder of
    that layout or a pipeline folder, the training starts from its weights.
    """
    settings, output = recipe.optimisation, Path(output)
    accelerator = Accelerator(mixed_precision=settings.mixed_precision)
    set_seed(settings.seed)
    model = TextConditionedTransformer(recipe)
    if initial is not None:
        for name in TRAINED_PARTS:
            part = getattr(model, name)
            part.load_state_dict(type(part).from_pretrained(Path(initial) / name).float().state_dict())
    if settings.compile:
        model.transformer.compile_repeated_blocks()
    first_step = completed_steps(output) if resume else 0
    buffer = LatentBuffer(recipe, latent_space, first_step, accelerator.device, num_workers)
    _, _, frames, height, width = buffer.latents.shape
    alpha = time_shift_alpha(height * width // 4, frames)

    def loss_of_step(prepared: nn.Module, step: int) -> Tensor:
        if step > 0 and step % recipe.refresh_every == 0:
            buffer.refresh()
        generator = step_generator(settings.seed, step, accelerator.device)
        latents, prompts = buffer.draw(generator)
        condition, prompts = draw_conditions(latents, prompts, recipe, generator)
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        normal = torch.randn(len(latents), generator=generator, device=latents.device)
        timesteps = shift_timesteps(normal.sigmoid(), alpha)
        velocity = prepared(add_noise(latents, noise, timesteps), timesteps, condition, prompts)
        return mse_loss(velocity.float(), pack_latents(velocity_target(latents, noise)))

    def save() -> None:
        for name in TRAINED_PARTS:
            getattr(model, name).save_pretrained(output / name)
        (output / "recipe.json").write_text(json.dumps(describe(recipe), indent=2))

    optimise(
        accelerator, model, loss_of_step, save, settings, output, first_step, checkpoint_every, stop_after
    )
    return model


def main() -> None:
    """Command line."""
    torch.set_float32_matmul_precision("high")
    recipe = TransformerRecipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=Path, required=True, help="file of lora_tta.embedded.latents")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    parser.add_argument("--initial", type=Path, help="start from the weights in this folder")
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
        LatentSpace.load(arguments.latents),
        arguments.output,
        arguments.resume,
        num_workers=arguments.workers,
        initial=arguments.initial,
    )


if __name__ == "__main__":
    main()
