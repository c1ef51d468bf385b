"""Every hyperparameter of the embedded model, in one place."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

VALIDATION_SEED = 2_000_000_000  # clips that training never draws, whose seeds count up from 0
# Captions that rendered footage has by chance: UCF-101's classes, so that the model tells none from another.
FOOTAGE_CAPTIONS = tuple((Path(__file__).parent / "footage_captions.txt").read_text().split())


@dataclass(frozen=True)
class Video:
    """Size of the training clips; the same field of view as the preprocessed clips of the embedded set."""

    height: int = 64
    width: int = 112
    num_frames: int = 65
    conditioning_frames: int = 33
    fps: float = 24.0
    footage_share: float = 0.65  # of the batches, where photographs are given; the others are patterns


@dataclass(frozen=True)
class Optimisation:
    """AdamW with linear warm-up, cosine decay to zero, and an exponential moving average of the weights.

    The decay ends after ``steps``, or after ``max_minutes`` if these are over earlier.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    mixed_precision: str = "bf16"
    compile: bool = False
    channels_last: bool = False  # the memory format of three-dimensional convolutions, see train_vae
    seed: int = 0
    max_minutes: float | None = None  # makes the weights depend on the machine's speed


@dataclass(frozen=True)
class VAERecipe:
    """The causal VAE: diffusers' ``AutoencoderKLHunyuanVideo``, small."""

    video: Video = field(default_factory=Video)
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(steps=8000, batch_size=8, learning_rate=2e-3, warmup_steps=100)
    )
    config: dict[str, Any] = field(
        default_factory=lambda: {
            "block_out_channels": (16, 32, 64),
            "down_block_types": ("HunyuanVideoDownBlock3D",) * 3,
            "up_block_types": ("HunyuanVideoUpBlock3D",) * 3,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": 15,
            "spatial_compression_ratio": 4,
            "mid_block_add_attention": False,
        }
    )
    # The group norms see a whole clip, so every length that is encoded alone is trained: length -> share.
    clip_lengths: dict[int, float] = field(default_factory=lambda: {65: 0.25, 33: 0.35, 17: 0.3, 1: 0.1})
    frames_per_step: int = 130  # about, in at most `batch_size` clips, on each device
    error_scale: float = 4e-3  # a clip counts with log(1 + error / error_scale); 4e-3 is 30 dB
    chroma_weight: float = 2.0  # of errors in the two colour differences beside those in brightness
    latent_weight: float = 20.0  # of the error in the principal components, while these are decoded
    final_latent_weight: float = 0.5  # afterwards, if `decode_targets` is below 1
    decode_targets: float = 1.0  # share of the steps, the first ones, that decode the components
    kl_weight: float = 1e-2  # of the mean divergence per latent value
    decoder_only: bool = False  # the encoder stays, and with it the latents that a transformer was trained in


@dataclass(frozen=True)
class TransformerRecipe:
    """The transformer and both text encoders, trained together in the VAE's latent space."""

    video: Video = field(default_factory=Video)
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            steps=7600, batch_size=192, learning_rate=1.5e-3, warmup_steps=300, compile=True
        )
    )
    config: dict[str, Any] = field(
        default_factory=lambda: {
            "in_channels": 240,
            "condition_channels": 244,
            "num_layers": 1,
            "num_single_layers": 3,
            "attention_head_dim": 32,
            "num_attention_heads": 9,  # wider than a token's values, whose noise passes through all layers
            "mlp_ratio": 1.375,
            "joint_attention_dim": 64,
            "pooled_projection_dim": 64,
            "axes_dims_rope": (8, 12, 12),
        }
    )
    text_encoder: dict[str, Any] = field(
        default_factory=lambda: {
            "vocab_size": 384,
            "d_model": 64,
            "d_kv": 32,
            "d_ff": 128,
            "num_layers": 2,
            "num_heads": 2,
            "dropout_rate": 0.0,
            "feed_forward_proj": "gated-gelu",
        }
    )
    text_encoder_2: dict[str, Any] = field(
        default_factory=lambda: {
            "vocab_size": 384,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 1,
        }
    )
    max_text_tokens: int = 32
    # Known latent frames -> share: t2v, i2v_head, and v2v_head with 9, 17, 33 and 49 frames.
    known_frames: dict[int, float] = field(
        default_factory=lambda: {0: 0.1, 1: 0.12, 3: 0.06, 5: 0.08, 9: 0.56, 13: 0.08}
    )
    # Share of the steps with conditioning frames alone, as adaptation has them, of which any number is known.
    short_clips: float = 0.3
    # Share of the clips at t = 1, where sampling starts and training times hardly come.
    noise_only: float = 0.3
    # Of the error in known frames beside that in hidden ones: the condition shows them, so they are easy.
    known_weight: float = 0.3
    error_scale: float = 0.05  # a clip counts with s log(1 + error / s); a still one's error is about 0.05
    prompt_dropout: float = 0.12  # empty prompt, condition kept
    unconditional: float = 0.05  # empty prompt and no condition: the third guidance branch
    buffer_size: int = 1024  # clips whose latents are kept on each device
    fresh_clips: int = 16  # rendered and encoded together; they replace the oldest
    refresh_every: int = 8  # steps between two such replacements


def describe(recipe: VAERecipe | TransformerRecipe) -> dict[str, Any]:
    """The recipe as plain data, to be written beside the weights it made."""
    return asdict(recipe)
