"""Train the embedded model's causal VAE: `python -m lora_tta.training.vae --output DIR`."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from lora_tta.data.synthetic import HELD_OUT_CLASSES, TRAINING_CLASSES
from lora_tta.training.loop import completed_steps, optimise, step_generator
from lora_tta.training.recipe import VALIDATION_SEED, VAERecipe, Video, describe
from lora_tta.training.scenes import rendered_batches


def without_tiling(vae: AutoencoderKLHunyuanVideo) -> AutoencoderKLHunyuanVideo:
    """Encode and decode clips whole: tiles over time would break the causal latents of long clips."""
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    return vae


class VAEObjective(nn.Module):
    """Mean squared reconstruction error and a small divergence that keeps the latents near a unit normal."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo, kl_weight: float) -> None:
        super().__init__()
        self.vae, self.kl_weight = vae, kl_weight

    def forward(self, videos: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of videos (batch, 3, frames, height, width) in [-1, 1]."""
        posterior = self.vae.encode(videos).latent_dist
        decoded = self.vae.decode(posterior.sample(generator)).sample
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        return mse_loss(decoded.float(), videos) + self.kl_weight * divergence


def cut(videos: Tensor, length: int) -> Tensor:
    """Cut clips (batch, 3, frames, ...) into pieces of `length` frames: (batch * pieces, 3, length, ...)."""
    pieces = videos.unfold(2, length, max(length - 1, 4))
    return pieces.movedim(-1, 3).movedim(2, 1).flatten(0, 1).contiguous()


@torch.no_grad()
def reconstruction_psnr(
    vae: AutoencoderKLHunyuanVideo, video: Video, classes: tuple[str, ...], clips: int, batch_size: int = 8
) -> float:
    """Mean over clips of the PSNR in dB of reconstructions of fresh clips."""
    batches = rendered_batches(
        video, batch_size, VALIDATION_SEED, -(-clips // batch_size), vae.device, 0, classes
    )
    values = []
    for videos, _ in batches:
        decoded = vae.decode(vae.encode(videos).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(-10 * (((decoded - videos) / 2) ** 2).mean(dim=(1, 2, 3, 4)).log10())
    return torch.cat(values)[:clips].mean().item()


@torch.no_grad()
def latent_scale(
    vae: AutoencoderKLHunyuanVideo, video: Video, batches: int = 8, batch_size: int = 8
) -> float:
    """The factor that gives the latents of fresh training clips unit variance."""
    rendered = rendered_batches(video, batch_size, VALIDATION_SEED + 10_000, batches, vae.device, 0)
    return 1 / torch.cat([vae.encode(videos).latent_dist.mode() for videos, _ in rendered]).std().item()


def train_vae(
    recipe: VAERecipe,
    output: Path,
    resume: bool = False,
    checkpoint_every: int = 500,
    num_workers: int = 4,
    stop_after: int | None = None,
) -> AutoencoderKLHunyuanVideo:
    """Train the VAE and write it, in float32 with its scaling factor, to `output/vae`; returns it."""
    settings, output = recipe.optimisation, Path(output)
    accelerator = Accelerator(mixed_precision=settings.mixed_precision)
    set_seed(settings.seed)
    vae = without_tiling(AutoencoderKLHunyuanVideo(**recipe.config))
    objective = VAEObjective(vae, recipe.kl_weight)
    if settings.compile:
        vae.encoder.compile(dynamic=False)
        vae.decoder.compile(dynamic=False)

    first_step = completed_steps(output) if resume else 0
    first_seed, batches = first_step * settings.batch_size, settings.steps - first_step
    videos = rendered_batches(
        recipe.video, settings.batch_size, first_seed, batches, accelerator.device, num_workers
    )
    lengths = torch.tensor(list(recipe.clip_lengths))
    shares = torch.tensor(list(recipe.clip_lengths.values()))

    def loss_of_step(prepared: nn.Module, step: int) -> Tensor:
        choice = torch.multinomial(
            shares, 1, generator=step_generator(settings.seed, step, torch.device("cpu"))
        )
        clips, _ = next(videos)
        return prepared(
            cut(clips, lengths[choice].item()), step_generator(settings.seed, step, accelerator.device)
        )

    done = optimise(
        accelerator, objective, loss_of_step, settings, output, first_step, checkpoint_every, stop_after
    )
    if done and accelerator.is_main_process:
        vae.register_to_config(scaling_factor=latent_scale(vae, recipe.video))
        vae.save_pretrained(output / "vae")
        (output / "recipe.json").write_text(json.dumps(describe(recipe), indent=2))
    return vae


def main() -> None:
    """Command line."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    recipe = VAERecipe()
    parser = argparse.ArgumentParser(description=__doc__)
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
    vae = train_vae(
        replace(recipe, optimisation=settings),
        arguments.output,
        arguments.resume,
        num_workers=arguments.workers,
    )
    for title, classes in (("training", TRAINING_CLASSES), ("held-out", HELD_OUT_CLASSES)):
        print(
            f"PSNR on 48 fresh clips of {title} classes: {reconstruction_psnr(vae, recipe.video, classes, 48):.2f} dB"
        )


if __name__ == "__main__":
    main()
