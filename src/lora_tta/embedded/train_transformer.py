"""Train the embedded model's transformer and text encoders in the latent space of its VAE.

``python -m lora_tta.embedded.train_transformer --latents FILE --vae DIR --output DIR``
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn
from transformers import ByT5Tokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from lora_tta.data.ucf101 import caption_of
from lora_tta.embedded.footage_rendering import PhotographBank
from lora_tta.embedded.latents import LatentSpace
from lora_tta.embedded.loop import completed_steps, first_seed_of, optimise, step_generator
from lora_tta.embedded.recipe import FOOTAGE_CAPTIONS, TransformerRecipe, describe
from lora_tta.embedded.scenes import EMPTY_PROMPT, render_videos, scene_batches
from lora_tta.embedded.synthetic import TRAINING_CLASSES
from lora_tta.embedded.widening import widen
from lora_tta.models.packing import (
    PATCH_SIZE,
    pack_condition,
    pack_latents,
    prepare_img_ids,
    prepare_txt_ids,
)
from lora_tta.models.scheduling import add_noise, shift_timesteps, time_shift_alpha, velocity_target
from lora_tta.models.transformer import OpenSoraTransformer3DModel
from lora_tta.models.vae import disable_framewise_coding, encode_video

TRAINED_PARTS = ("transformer", "text_encoder", "text_encoder_2")
Encode = Callable[[Tensor], Tensor]  # videos (B, 3, F, H, W) in [-1, 1] -> latents (B, C, T, H/8, W/8)


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
        captions = [caption_of(name) for name in (*TRAINING_CLASSES, *FOOTAGE_CAPTIONS)]
        prompts = [*captions[:EMPTY_PROMPT], "", *captions[EMPTY_PROMPT:]]
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
        latents: (size, C, T, H, W) of whole clips.
        known: (size, C, F, H, W) of their conditioning frames, encoded alone.
        prompts: (size,) row of each clip's caption.
    """

    def __init__(
        self,
        recipe: TransformerRecipe,
        encode: Encode,
        first_step: int,
        device: torch.device,
        num_workers: int,
        bank: PhotographBank | None = None,
        first_seed: int = 0,
    ) -> None:
        self.recipe, self.encode, self.bank = recipe, encode, bank
        fills = recipe.buffer_size // recipe.fresh_clips
        past = max(0, first_step - 1) // recipe.refresh_every
        self.next_clip = past * recipe.fresh_clips
        self.drawn = scene_batches(
            recipe.video,
            recipe.fresh_clips,
            first_seed=first_seed + self.next_clip,
            num_batches=fills + recipe.optimisation.steps // recipe.refresh_every + 1 - past,
            device=device,
            num_workers=num_workers,
            photographs=len(bank or ()),
        )
        video, size = recipe.video, recipe.buffer_size
        channels, place = recipe.config["in_channels"] // 4, (video.height // 8, video.width // 8)
        frames, known = ((count - 1) // 4 + 1 for count in (video.num_frames, video.conditioning_frames))
        self.latents = torch.zeros(size, channels, frames, *place, device=device)
        self.known = torch.zeros(size, channels, known, *place, device=device)
        self.prompts = torch.zeros(size, dtype=torch.long, device=device)
        for _ in range(fills):
            self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Render the next clips into the slots of the oldest."""
        scenes, prompts = next(self.drawn)
        slots = (self.next_clip + torch.arange(len(prompts))) % self.recipe.buffer_size
        slots = slots.to(self.latents.device)
        videos = render_videos(scenes, self.recipe.video, self.bank)
        self.latents[slots] = self.encode(videos)
        self.known[slots] = self.encode(videos[:, :, : self.recipe.video.conditioning_frames])
        self.prompts[slots] = prompts.to(self.latents.device)
        self.next_clip += len(slots)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A random batch: latents (B, C, T, H, W), those of the known frames, and prompt rows (B,)."""
        size, batch_size = self.recipe.buffer_size, self.recipe.optimisation.batch_size
        rows = torch.randint(size, (batch_size,), generator=generator, device=self.latents.device)
        return self.latents[rows], self.known[rows], self.prompts[rows]


def draw_conditions(
    latents: Tensor, known: Tensor, prompts: Tensor, recipe: TransformerRecipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw how many frames of each clip are known, and drop prompts and conditions for guidance.

    Args:
        latents: of whole clips (B, C, T, H, W); they stand in where more frames are known than ``known`` has.
        known: of the conditioning frames alone (B, C, F, H, W).
        prompts: row of each clip's caption (B,).
        recipe: the shares.
        generator: on the device of the latents.

    Returns:
        Packed conditions (B, N, 4 (1 + C)) and prompt rows (B,).
    """
    batch, device = len(latents), latents.device
    shares = torch.tensor(list(recipe.known_frames.values()), device=device)
    counts = torch.tensor(list(recipe.known_frames), device=device)
    counts = counts[torch.multinomial(shares, batch, replacement=True, generator=generator)]
    drop_prompt, drop_all = torch.rand(2, batch, generator=generator, device=device)
    unconditional = drop_all < recipe.unconditional
    counts = torch.where(unconditional, 0, counts)
    frames = known.shape[2]
    alone = torch.cat((known, latents[:, :, frames:]), dim=2)
    reference = torch.where((counts > frames)[:, None, None, None, None], latents, alone)
    is_known = torch.arange(latents.shape[2], device=device) < counts[:, None]
    mask = is_known[:, None, :, None, None].to(latents.dtype).expand(-1, 1, -1, *latents.shape[3:])
    drop = (drop_prompt < recipe.prompt_dropout) | unconditional
    return pack_condition(mask, mask * reference), torch.where(drop, EMPTY_PROMPT, prompts)


def weighted_error(
    error: Tensor, is_known: Tensor, channel_weights: Tensor, recipe: TransformerRecipe
) -> Tensor:
    """Loss of the squared errors of tokens (B, N, 4 C).

    The tokens of known frames count less. A clip counts as s log(1 + error / s), as in PSNR: the mean of
    plain errors is that of the clips that nobody foresees, and still ones stay blurred.

    Args:
        error: squared, the channels outermost within a token.
        is_known: (B, N), 1 for the tokens of known frames.
        channel_weights: of the latent channels (C,), with a mean of 1.
        recipe: ``known_weight`` and ``error_scale``.
    """
    error = (error * channel_weights.repeat_interleave(PATCH_SIZE**2)).mean(dim=-1)
    weights = 1 - (1 - recipe.known_weight) * is_known
    of_clips = (weights * error).sum(dim=1) / weights.sum(dim=1)
    return recipe.error_scale * torch.log1p(of_clips / recipe.error_scale).mean()


def train_transformer(
    recipe: TransformerRecipe,
    encode: Encode,
    output: Path,
    resume: bool = False,
    checkpoint_every: int = 500,
    num_workers: int = 4,
    stop_after: int | None = None,
    initial: Path | None = None,
    bank: PhotographBank | None = None,
    channel_weights: Tensor | None = None,
) -> TextConditionedTransformer:
    """Train transformer and text encoders in the latent space that ``encode`` maps to, and return them.

    Every checkpoint also writes them, in float32, to folders in ``output``. With ``initial``, a folder of
    that layout or a pipeline folder, the training starts from its weights, which may be of fewer channels.
    ``channel_weights`` (C,), of the errors in the latent channels, are all 1 by default.
    """
    settings, output = recipe.optimisation, Path(output)
    accelerator = Accelerator(mixed_precision=settings.mixed_precision)
    set_seed(settings.seed)
    model = TextConditionedTransformer(recipe)
    if initial is not None:
        for name in TRAINED_PARTS:
            part = getattr(model, name)
            widen(part, type(part).from_pretrained(Path(initial) / name).float())
    if settings.compile:
        model.transformer.compile_repeated_blocks(dynamic=False)
    first_step = completed_steps(output) if resume else 0
    buffer = LatentBuffer(
        recipe, encode, first_step, accelerator.device, num_workers, bank, first_seed_of(accelerator)
    )
    height, width = buffer.latents.shape[3:]
    if channel_weights is None:
        channel_weights = torch.ones(buffer.latents.shape[1])
    of_channels = channel_weights.to(accelerator.device)

    def loss_of_step(prepared: nn.Module, step: int) -> Tensor:
        if step > 0 and step % recipe.refresh_every == 0:
            buffer.refresh()
        generator = step_generator(settings.seed, step, accelerator.device, accelerator.process_index)
        latents, known, prompts = buffer.draw(generator)
        known_frames = recipe.known_frames
        # Alike in all processes, as the longest one's step takes the time of all.
        choice = torch.rand((), generator=step_generator(settings.seed, step, torch.device("cpu")))
        if choice < recipe.short_clips:
            latents, known_frames = known, dict.fromkeys(range(known.shape[2]), 1.0)
        condition, prompts = draw_conditions(
            latents, known, prompts, replace(recipe, known_frames=known_frames), generator
        )
        alpha = time_shift_alpha(height * width // 4, latents.shape[2])
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        normal = torch.randn(len(latents), generator=generator, device=latents.device)
        noise_only = torch.rand(len(latents), generator=generator, device=latents.device) < recipe.noise_only
        timesteps = torch.where(noise_only, 1.0, shift_timesteps(normal.sigmoid(), alpha))
        velocity = prepared(add_noise(latents, noise, timesteps), timesteps, condition, prompts)
        error = (velocity.float() - pack_latents(velocity_target(latents, noise))).square()
        return weighted_error(error, condition[..., 0], of_channels, recipe)

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
    parser.add_argument("--vae", type=Path, help="folder of a trained VAE, whose latents take their place")
    parser.add_argument("--photographs", type=Path, help="folder of lora_tta.embedded.photographs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    parser.add_argument("--initial", type=Path, help="start from the weights in this folder")
    parser.add_argument("--steps", type=int, default=recipe.optimisation.steps)
    parser.add_argument("--batch-size", type=int, default=recipe.optimisation.batch_size)
    parser.add_argument("--learning-rate", type=float, default=recipe.optimisation.learning_rate)
    parser.add_argument("--seed", type=int, default=recipe.optimisation.seed)
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=recipe.optimisation.compile
    )
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--max-minutes", type=float, help="end the schedule by then")
    arguments = parser.parse_args()
    settings = replace(
        recipe.optimisation,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        max_minutes=arguments.max_minutes,
        compile=arguments.compile,
    )
    device = Accelerator(mixed_precision=settings.mixed_precision).device
    space = LatentSpace.load(arguments.latents).to(device)
    encode: Encode = space.gathered
    if arguments.vae:
        vae = disable_framewise_coding(AutoencoderKLHunyuanVideo.from_pretrained(arguments.vae)).to(device)
        encode = partial(encode_video, vae)
    train_transformer(
        replace(recipe, optimisation=settings),
        encode,
        arguments.output,
        arguments.resume,
        num_workers=arguments.workers,
        initial=arguments.initial,
        bank=PhotographBank(arguments.photographs, device) if arguments.photographs else None,
        channel_weights=space.spreads(),
    )


if __name__ == "__main__":
    main()
