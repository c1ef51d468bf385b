"""Every hyperparameter of the embedded model, in one place."""

from dataclasses import asdict, dataclass, field
from typing import Any

VALIDATION_SEED = 2_000_000_000  # clips that training never draws, whose seeds count up from 0


@dataclass(frozen=True)
class Video:
    """Size of the training clips; the same field of view as the preprocessed clips of the embedded set."""

    height: int = 64
    width: int = 112
    num_frames: int = 65
    conditioning_frames: int = 33
    fps: float = 24.0


@dataclass(frozen=True)
class Optimisation:
    """AdamW with linear warm-up, cosine decay to zero, and an exponential moving average of the weights."""

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
    seed: int = 0


@dataclass(frozen=True)
class VAERecipe:
    """The causal VAE: diffusers' ``AutoencoderKLHunyuanVideo``, small."""

    video: Video = field(default_factory=Video)
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            steps=1200, batch_size=16, learning_rate=1.5e-3, warmup_steps=100
        )
    )
    config: dict[str, Any] = field(
        default_factory=lambda: {
            "block_out_channels": (16, 32, 48, 64),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": 16,
        }
    )
    # The group norms see a whole clip, so every length that is encoded alone is trained: length -> share.
    clip_lengths: dict[int, float] = field(default_factory=lambda: {65: 0.25, 33: 0.35, 17: 0.3, 1: 0.1})
    frames_per_step: int = 200  # about, in at most `batch_size` clips
    chroma_weight: float = 2.0  # of errors in the two colour differences beside those in brightness
    latent_weight: float = 1.0  # of the error in the principal components
    decode_targets: float = 0.4  # share of the training that decodes the components themselves
    kl_weight: float = 1e-4  # of the mean divergence per latent value


@dataclass(frozen=True)
class TransformerRecipe:
    """The transformer and both text encoders, trained together in the VAE's latent space."""

    video: Video = field(default_factory=Video)
    optimisation: Optimisation = field(
        default_factory=lambda: Optimisation(
            steps=3800, batch_size=96, learning_rate=1e-3, warmup_steps=300, compile=True
        )
    )
    config: dict[str, Any] = field(
        default_factory=lambda: {
            "in_channels": 64,
            "condition_channels": 68,
            "num_layers": 2,
            "num_single_layers": 5,
            "attention_head_dim": 32,
            "num_attention_heads": 5,
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
    modes: dict[str, float] = field(default_factory=lambda: {"v2v_head": 0.7, "i2v_head": 0.15, "t2v": 0.15})
    prompt_dropout: float = 0.12  # empty prompt, condition kept
    unconditional: float = 0.05  # empty prompt and no condition: the third guidance branch
    buffer_size: int = 2048  # clips whose latents are kept on the device
    fresh_clips: int = 16  # rendered and encoded together; they replace the oldest
    refresh_every: int = 8  # steps between two such replacements


def describe(recipe: VAERecipe | TransformerRecipe) -> dict[str, Any]:
    """The recipe as plain data, to be written beside the weights it made."""
    return asdict(recipe)
