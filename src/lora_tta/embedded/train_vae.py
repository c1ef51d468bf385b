"""Train the embedded model's causal VAE.

``python -m lora_tta.embedded.train_vae --latents FILE --output DIR``
"""

import argparse
import json
import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import (
    HunyuanVideoDownsampleCausal3D,
    HunyuanVideoResnetBlockCausal3D,
    HunyuanVideoUpsampleCausal3D,
)
from torch import Tensor, nn

from lora_tta.embedded.footage_rendering import PhotographBank
from lora_tta.embedded.latents import LatentSpace
from lora_tta.embedded.loop import completed_steps, first_seed_of, optimise, step_generator
from lora_tta.embedded.recipe import VALIDATION_SEED, VAERecipe, Video, describe
from lora_tta.embedded.scenes import excerpt, render_videos, scene_batches
from lora_tta.embedded.synthetic import HELD_OUT_CLASSES, TRAINING_CLASSES
from lora_tta.embedded.widening import widen_vae
from lora_tta.models.vae import disable_framewise_coding

# Orthonormal rows: brightness and two colour differences.
OPPONENT_COLOURS = (
    (0.577350, 0.577350, 0.577350),
    (0.707107, -0.707107, 0.0),
    (0.408248, 0.408248, -0.816497),
)
LATENT_NOISE = 0.1  # standard deviation; the latents' variance is about 1
INITIAL_LOG_VARIANCE = -6.0  # of the posterior


def build_vae(config: dict) -> AutoencoderKLHunyuanVideo:
    """A new VAE in which every residual branch starts at zero and every resampling convolution as a copy.

    The picture then passes through all layers from the start, colours included.
    """
    vae = disable_framewise_coding(AutoencoderKLHunyuanVideo(**config))
    for module in vae.modules():
        if isinstance(module, HunyuanVideoResnetBlockCausal3D):
            nn.init.zeros_(module.conv2.conv.weight)
            nn.init.zeros_(module.conv2.conv.bias)
        elif isinstance(module, HunyuanVideoDownsampleCausal3D | HunyuanVideoUpsampleCausal3D):
            nn.init.dirac_(module.conv.conv.weight)
            nn.init.zeros_(module.conv.conv.bias)
    nn.init.constant_(vae.quant_conv.bias[config["latent_channels"] :], INITIAL_LOG_VARIANCE)
    return vae


class VAEObjective(nn.Module):
    """Errors of reconstruction and latents, and a small divergence that keeps the posterior defined."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo, recipe: VAERecipe) -> None:
        super().__init__()
        self.vae, self.recipe = vae, recipe
        weights = torch.tensor((1.0, recipe.chroma_weight, recipe.chroma_weight)).sqrt()
        self.register_buffer(
            "to_colours", weights[:, None] * torch.tensor(OPPONENT_COLOURS), persistent=False
        )

    def forward(
        self, videos: Tensor, targets: Tensor, decode_targets: bool, generator: torch.Generator
    ) -> Tensor:
        """Loss of a batch.

        Args:
            videos: (B, 3, F, H, W) in [-1, 1].
            targets: their principal components (B, C, T, H/8, W/8).
            decode_targets: draw from the components, while the encoder learns them, not from its latents.
            generator: of the noise that is added to what is drawn from.
        """
        if self.recipe.decoder_only:
            with torch.no_grad():
                latents = self.vae.encode(videos).latent_dist.mode()
            return self._error(latents, videos)
        posterior = self.vae.encode(videos).latent_dist
        noise = torch.randn(targets.shape, generator=generator, device=targets.device)
        latents = (targets if decode_targets else posterior.mode()) + LATENT_NOISE * noise
        latent_error = posterior.mean.float() - targets
        weight = self.recipe.latent_weight if decode_targets else self.recipe.final_latent_weight
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
        error = self._error(latents, videos)
        return error + weight * latent_error.square().mean() + self.recipe.kl_weight * divergence

    def _error(self, latents: Tensor, videos: Tensor) -> Tensor:
        error = self.vae.decode(latents).sample.float() - videos
        error = torch.einsum("ij,bj...->bi...", self.to_colours, error).square().mean(dim=(1, 2, 3, 4))
        # Logarithmic, as PSNR is: dark and still clips count as much as hard ones.
        return torch.log1p(error / self.recipe.error_scale).mean()


@torch.no_grad()
def reconstruction_psnr(
    vae: AutoencoderKLHunyuanVideo, video: Video, classes: tuple[str, ...], clips: int, batch_size: int = 8
) -> float:
    """Mean over clips of the PSNR in dB of reconstructions of fresh clips."""
    batches = scene_batches(
        video, batch_size, VALIDATION_SEED, -(-clips // batch_size), vae.device, 0, classes
    )
    values = []
    for scenes, _ in batches:
        videos = render_videos(scenes, video)
        decoded = vae.decode(vae.encode(videos).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(-10 * (((decoded - videos) / 2) ** 2).mean(dim=(1, 2, 3, 4)).log10())
    return torch.cat(values)[:clips].mean().item()


@torch.no_grad()
def fold_scaling_factor(vae: AutoencoderKLHunyuanVideo, back: bool = False) -> None:
    """Make the scaled latents what the VAE was trained to produce: its scaling factor is the published one.

    The factor goes into the two 1x1x1 convolutions next to the latents, or out of them with ``back``, to
    train on; reconstructions stay the same.
    """
    factor, channels = vae.config.scaling_factor, vae.config.latent_channels
    factor = 1 / factor if back else factor
    vae.quant_conv.weight[:channels] /= factor
    vae.quant_conv.bias[:channels] /= factor
    vae.quant_conv.bias[channels:] -= 2 * math.log(factor)
    vae.post_quant_conv.weight *= factor


def train_vae(
    recipe: VAERecipe,
    latent_space: LatentSpace,
    output: Path,
    resume: bool = False,
    checkpoint_every: int = 500,
    num_workers: int = 4,
    stop_after: int | None = None,
    initial: Path | None = None,
    bank: PhotographBank | None = None,
) -> AutoencoderKLHunyuanVideo:
    """Train the VAE and return it; every checkpoint also writes it, in float32, to ``output/vae``.

    With ``initial``, the folder of a VAE that was written so, the training starts from its weights. That VAE
    may have fewer latent channels.
    """
    settings, output = recipe.optimisation, Path(output)
    accelerator = Accelerator(mixed_precision=settings.mixed_precision)
    set_seed(settings.seed)
    vae = build_vae(recipe.config)
    if initial is not None:
        narrow = AutoencoderKLHunyuanVideo.from_pretrained(initial).float()
        fold_scaling_factor(narrow, back=True)
        widen_vae(vae, narrow)
    if settings.channels_last:
        # Their kernels in bfloat16 want it, and PyTorch would reorder the tensors around each of them.
        vae.to(memory_format=torch.channels_last_3d)
    if settings.compile:
        for part in (vae.encoder, vae.decoder):
            part.compile(dynamic=False)
    if recipe.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    objective = VAEObjective(vae, recipe)
    first_step = completed_steps(output) if resume else 0
    drawn = scene_batches(
        recipe.video,
        settings.batch_size,
        first_seed=first_seed_of(accelerator) + first_step * settings.batch_size,
        num_batches=settings.steps - first_step,
        device=accelerator.device,
        num_workers=num_workers,
        photographs=len(bank or ()),
    )
    space = latent_space.to(accelerator.device)
    shares = torch.tensor(list(recipe.clip_lengths.values()))

    def loss_of_step(prepared: nn.Module, step: int) -> Tensor:
        choices = step_generator(settings.seed, step, torch.device("cpu"))
        length = list(recipe.clip_lengths)[torch.multinomial(shares, 1, generator=choices)]
        start = torch.randint(recipe.video.num_frames - length + 1, (), generator=choices).item()
        scenes, _ = next(drawn)
        clips = max(1, recipe.frames_per_step // length)
        videos = render_videos(excerpt(scenes, clips, start, length), recipe.video, bank)
        return prepared(
            videos,
            space.encode(videos),
            decode_targets=step < recipe.decode_targets * settings.steps,
            generator=step_generator(settings.seed, step, accelerator.device, accelerator.process_index),
        )

    def save() -> None:
        finished = deepcopy(vae)
        fold_scaling_factor(finished)
        finished.save_pretrained(output / "vae")
        (output / "recipe.json").write_text(json.dumps(describe(recipe), indent=2))

    optimise(
        accelerator, objective, loss_of_step, save, settings, output, first_step, checkpoint_every, stop_after
    )
    fold_scaling_factor(vae)
    return vae


def main() -> None:
    """Command line."""
    torch.set_float32_matmul_precision("high")
    recipe = VAERecipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=Path, required=True, help="file of lora_tta.embedded.latents")
    parser.add_argument("--photographs", type=Path, help="folder of lora_tta.embedded.photographs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    parser.add_argument("--steps", type=int, default=recipe.optimisation.steps)
    parser.add_argument("--batch-size", type=int, default=recipe.optimisation.batch_size)
    parser.add_argument("--seed", type=int, default=recipe.optimisation.seed)
    parser.add_argument("--initial", type=Path, help="start from the VAE in this folder")
    parser.add_argument("--decoder-only", action="store_true", help="leave the encoder of --initial as it is")
    parser.add_argument(
        "--decode-targets", type=float, default=recipe.decode_targets, help="share of training"
    )
    parser.add_argument("--learning-rate", type=float, default=recipe.optimisation.learning_rate)
    for option in ("compile", "channels_last"):
        parser.add_argument(
            f"--{option.replace('_', '-')}",
            action=argparse.BooleanOptionalAction,
            default=getattr(recipe.optimisation, option),
        )
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--max-minutes", type=float, help="end the schedule by then")
    arguments = parser.parse_args()
    if arguments.decoder_only and not arguments.initial:
        parser.error("--decoder-only goes on from --initial, which is missing")
    settings = replace(
        recipe.optimisation,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        max_minutes=arguments.max_minutes,
        compile=arguments.compile,
        channels_last=arguments.channels_last,
    )
    accelerator = Accelerator(mixed_precision=settings.mixed_precision)
    vae = train_vae(
        replace(
            recipe,
            optimisation=settings,
            decode_targets=arguments.decode_targets,
            decoder_only=arguments.decoder_only,
        ),
        LatentSpace.load(arguments.latents),
        arguments.output,
        arguments.resume,
        num_workers=arguments.workers,
        initial=arguments.initial,
        bank=PhotographBank(arguments.photographs, accelerator.device) if arguments.photographs else None,
    )
    if not accelerator.is_main_process:
        return
    for title, classes in (("training", TRAINING_CLASSES), ("held-out", HELD_OUT_CLASSES)):
        psnr = reconstruction_psnr(vae, recipe.video, classes, clips=48)
        print(f"PSNR on 48 fresh clips of {title} classes: {psnr:.2f} dB")


if __name__ == "__main__":
    main()
