"""The Open-Sora v2.0 transformer (MMDiT) as a diffusers model.

A FLUX-like video transformer: double-stream blocks, in which video and text tokens keep their own weights and
meet in joint attention, then single-stream blocks over the concatenated sequence. Layers carry the names of
diffusers' FLUX model. One thing is laid out differently: the published single-stream block fuses V with the
MLP input and the attention output with the MLP output. Here each is a linear layer of its own, so that
``attn.to_v`` and ``attn.to_out.0`` mean the same in both block kinds and an adapter touches exactly the
layers it names.

Reference: Open-Sora 2.0, https://arxiv.org/abs/2503.09642.
"""

from collections.abc import Callable
from itertools import chain

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import FeedForward
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional as F

from lora_tta.models.fused_linears import Projected, StackedLinears, project

NORM_EPS = 1e-6
RotaryEmbedding = tuple[Tensor, Tensor]
QKV = tuple[Tensor, Tensor, Tensor]
QKVHeads = Callable[[list[Projected], list[Tensor], RotaryEmbedding], QKV]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
MLP = Callable[[nn.Module, nn.Module, Tensor], Tensor]


class OpenSoraRotaryPosEmbed(nn.Module):
    """Angles of the three-axis rotary position embedding (RoFormer, https://arxiv.org/abs/2104.09864).

    Args:
        axes_dim: head channels given to the axes (t, h, w); their sum is the head width D.
        theta: base of the frequencies.
    """

    def __init__(self, axes_dim: tuple[int, ...], theta: float) -> None:
        super().__init__()
        self.axes_dim = tuple(axes_dim)
        self.theta = theta

    def forward(self, ids: Tensor) -> RotaryEmbedding:
        """Cosines and sines, each float32 (B or 1, S, 1, D/2), for token ids (S, 3) or (B, S, 3)."""
        if ids.ndim == 2:
            ids = ids[None]
        angles = []
        for axis, dim in enumerate(self.axes_dim):
            exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=ids.device) / dim
            angles.append(ids[..., axis, None].float() / self.theta**exponents)
        angles = torch.cat(angles, dim=-1)[:, :, None]
        return angles.cos(), angles.sin()


def apply_rotary_emb(hidden_states: Tensor, rotary_emb: RotaryEmbedding) -> Tensor:
    """Rotate channel d together with channel D/2 + d (rotate-half layout) of (B, S, H, D), in float32."""
    cos, sin = rotary_emb
    first, second = hidden_states.chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(hidden_states.dtype)


def qkv_heads(streams: list[Projected], norms: list[Tensor], rotary_emb: RotaryEmbedding) -> QKV:
    """RMS-normalised and rotated queries and keys, and values, of one or two streams of tokens.

    Args:
        streams: for video, or for text and video, queries, keys and values side by side, (B, S, 3 * H * D).
        norms: weights (D,) of the normalisation of queries and of keys, for each stream.
        rotary_emb: see :class:`OpenSoraRotaryPosEmbed`.

    Returns:
        Three tensors (B, S in all, H, D), text first.
    """
    shape = norms[0].shape
    parts = []
    for stream, norm_q, norm_k in zip(streams, norms[::2], norms[1::2], strict=True):
        query, key, value = (part.unflatten(-1, (-1, *shape)) for part in stream.whole().chunk(3, dim=-1))
        query, key = F.rms_norm(query, shape, norm_q, NORM_EPS), F.rms_norm(key, shape, norm_k, NORM_EPS)
        parts.append((query, key, value))
    query, key, value = (
        parts[0] if len(parts) == 1 else (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    )
    return apply_rotary_emb(query, rotary_emb), apply_rotary_emb(key, rotary_emb), value


def gelu_linear(linear: nn.Linear, hidden_states: Tensor) -> Tensor:
    """GELU (tanh form) of a linear layer; one kernel where cuBLAS has it and no gradient is needed."""
    if hidden_states.is_cuda and not torch.is_grad_enabled() and type(linear) is nn.Linear:
        tokens = hidden_states.flatten(0, -2)
        activated = torch._addmm_activation(linear.bias, tokens, linear.weight.t(), use_gelu=True)
        return activated.unflatten(0, hidden_states.shape[:-1])
    return F.gelu(linear(hidden_states), approximate="tanh")


def gelu_mlp(up: nn.Module, down: nn.Module, hidden_states: Tensor) -> Tensor:
    """Two linear layers with a GELU (tanh form) between them, (..., C) to (..., C)."""
    return down(gelu_linear(up, hidden_states))


def modulated_norm(norm: nn.LayerNorm, hidden_states: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised tokens (B, S, C), scaled and shifted by (B, 1, C)."""
    return norm(hidden_states) * (1 + scale) + shift


class OpenSoraSelfAttention(nn.Module):
    """Self-attention over one stream, with RMS-normalised and rotated queries and keys."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        head_dim = dim // num_heads
        self.head_dim = head_dim
        self.to_q = nn.Linear(dim, dim, bias=qkv_bias)
        self.to_k = nn.Linear(dim, dim, bias=qkv_bias)
        self.to_v = nn.Linear(dim, dim, bias=qkv_bias)
        self.norm_q = nn.RMSNorm(head_dim, eps=NORM_EPS)
        self.norm_k = nn.RMSNorm(head_dim, eps=NORM_EPS)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.to_qkv: StackedLinears | None = None
        self.qkv_heads: QKVHeads = qkv_heads
        # diffusers' active backend, PyTorch's own by default.
        self.attention: Attention = dispatch_attention_fn

    def fuse_projections(self) -> None:
        """Compute queries, keys and values in one product from now on."""
        self.to_qkv = StackedLinears([self.to_q, self.to_k, self.to_v])

    def forward(self, hidden_states: Tensor, rotary_emb: RotaryEmbedding, first_token: int = 0) -> Tensor:
        """Map (B, S, H * D) to (B, S - first_token, H * D): tokens from ``first_token`` on see all S."""
        attended = self._attend([self._project_video(hidden_states)], rotary_emb, first_token)
        return self.to_out[0](attended)

    def _project_video(self, hidden_states: Tensor) -> Projected:
        return project(hidden_states, [self.to_q, self.to_k, self.to_v], self.to_qkv)

    def _norms(self) -> list[Tensor]:
        return [self.norm_q.weight, self.norm_k.weight]

    def _attend(self, streams: list[Projected], rotary_emb: RotaryEmbedding, first_token: int = 0) -> Tensor:
        query, key, value = self.qkv_heads(streams, self._norms(), rotary_emb)
        return self.attention(query[:, first_token:], key, value).flatten(2)


class OpenSoraJointAttention(OpenSoraSelfAttention):
    """Attention over text and video tokens together, text first; each stream has its own projections."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__(dim, num_heads, qkv_bias)
        self.add_q_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.add_k_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.add_v_proj = nn.Linear(dim, dim, bias=qkv_bias)
        self.norm_added_q = nn.RMSNorm(self.head_dim, eps=NORM_EPS)
        self.norm_added_k = nn.RMSNorm(self.head_dim, eps=NORM_EPS)
        self.to_add_out = nn.Linear(dim, dim)
        self.to_added_qkv: StackedLinears | None = None

    def fuse_projections(self) -> None:
        """Compute queries, keys and values of each stream in one product from now on."""
        super().fuse_projections()
        self.to_added_qkv = StackedLinears([self.add_q_proj, self.add_k_proj, self.add_v_proj])

    def forward(  # pyrefly: ignore[bad-override-param-name, bad-override]
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, rotary_emb: RotaryEmbedding
    ) -> tuple[Tensor, Tensor]:
        """Map video (B, N, H * D) and text (B, L, H * D) tokens to new ones of the same shapes."""
        text_layers = [self.add_q_proj, self.add_k_proj, self.add_v_proj]
        text = project(encoder_hidden_states, text_layers, self.to_added_qkv)
        attended = self._attend([text, self._project_video(hidden_states)], rotary_emb)
        text, video = attended.tensor_split([encoder_hidden_states.shape[1]], dim=1)
        return self.to_out[0](video), self.to_add_out(text)

    def _norms(self) -> list[Tensor]:
        return [self.norm_added_q.weight, self.norm_added_k.weight, *super()._norms()]


class OpenSoraTransformerBlock(nn.Module):
    """Double-stream block: joint attention, then one MLP for each stream.

    Shifts, scales and gates come from outside: the block holds the layers that they are computed with.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, qkv_bias: bool) -> None:
        super().__init__()
        self.norm1 = AdaLayerNormZero(dim)
        self.norm1_context = AdaLayerNormZero(dim)
        self.attn = OpenSoraJointAttention(dim, num_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False, eps=NORM_EPS)
        self.ff = FeedForward(dim, inner_dim=mlp_dim, activation_fn="gelu-approximate")
        self.norm2_context = nn.LayerNorm(dim, elementwise_affine=False, eps=NORM_EPS)
        self.ff_context = FeedForward(dim, inner_dim=mlp_dim, activation_fn="gelu-approximate")
        self.mlp: MLP = gelu_mlp

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        modulation: Tensor,
        rotary_emb: RotaryEmbedding,
    ) -> tuple[Tensor, Tensor]:
        """Map video (B, N, C) and text (B, L, C) tokens to new ones; ``modulation`` is (B, 12 C)."""
        of_video, of_text = modulation[:, None].chunk(2, dim=-1)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = of_video.chunk(6, dim=-1)
        c_shift, c_scale, c_gate, c_shift_mlp, c_scale_mlp, c_gate_mlp = of_text.chunk(6, dim=-1)
        video = modulated_norm(self.norm1.norm, hidden_states, shift, scale)
        text = modulated_norm(self.norm1_context.norm, encoder_hidden_states, c_shift, c_scale)
        video, text = self.attn(video, text, rotary_emb)

        hidden_states = hidden_states + gate * video
        video = modulated_norm(self.norm2, hidden_states, shift_mlp, scale_mlp)
        hidden_states = hidden_states + gate_mlp * self._feed_forward(self.ff, video)

        encoder_hidden_states = encoder_hidden_states + c_gate * text
        text = modulated_norm(self.norm2_context, encoder_hidden_states, c_shift_mlp, c_scale_mlp)
        encoder_hidden_states = encoder_hidden_states + c_gate_mlp * self._feed_forward(self.ff_context, text)
        return hidden_states, encoder_hidden_states

    def _feed_forward(self, layers: FeedForward, hidden_states: Tensor) -> Tensor:
        return self.mlp(layers.net[0].proj, layers.net[2], hidden_states)


class OpenSoraSingleTransformerBlock(nn.Module):
    """Single-stream block: attention and MLP side by side, their outputs summed and gated.

    ``proj_mlp_out`` has no bias: the published block has one bias for the sum, kept in ``attn.to_out.0``.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm = AdaLayerNormZeroSingle(dim)
        self.attn = OpenSoraSelfAttention(dim, num_heads, qkv_bias=True)
        self.proj_mlp = nn.Linear(dim, mlp_dim)
        self.proj_mlp_out = nn.Linear(mlp_dim, dim, bias=False)
        self.mlp: MLP = gelu_mlp

    def forward(
        self,
        hidden_states: Tensor,
        modulation: Tensor,
        rotary_emb: RotaryEmbedding,
        first_token: int = 0,
    ) -> Tensor:
        """Map text and video tokens (B, L + N, C) to new ones.

        Args:
            hidden_states: text tokens first.
            modulation: (B, 3 C).
            rotary_emb: see :class:`OpenSoraRotaryPosEmbed`.
            first_token: the first token wanted; those before it are seen, and not computed.
        """
        shift, scale, gate = modulation[:, None].chunk(3, dim=-1)
        normed = modulated_norm(self.norm.norm, hidden_states, shift, scale)
        attended = self.attn(normed, rotary_emb, first_token)
        update = attended + self.mlp(self.proj_mlp, self.proj_mlp_out, normed[:, first_token:])
        return hidden_states[:, first_token:] + gate * update


class OpenSoraTransformer3DModel(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """The velocity model of Open-Sora v2.0; the defaults are the published 11.9 B-parameter sizes.

    Args:
        in_channels: width of a video token, latent channels x 2 x 2.
        condition_channels: width of a condition token, (1 + latent channels) x 2 x 2, or None for a model
            without condition input.
        num_layers: number of double-stream blocks.
        num_single_layers: number of single-stream blocks.
        attention_head_dim: channels of one head; even, and the sum of ``axes_dims_rope``.
        num_attention_heads: number of heads.
        mlp_ratio: width of the MLPs relative to the model's.
        joint_attention_dim: width of the T5 embeddings.
        pooled_projection_dim: width of the pooled CLIP embedding.
        axes_dims_rope: head channels given to the axes (t, h, w), each even.
        rope_theta: base of the rotary frequencies.
        qkv_bias: whether the Q, K and V projections of the double-stream blocks have a bias, as those of the
            single-stream blocks always do.

    Raises:
        ValueError: if the rotary axes don't add up to the head width.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["OpenSoraTransformerBlock", "OpenSoraSingleTransformerBlock"]  # noqa: RUF012
    _repeated_blocks = ["OpenSoraTransformerBlock", "OpenSoraSingleTransformerBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["pos_embed", "norm"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        in_channels: int = 64,
        condition_channels: int | None = 68,
        num_layers: int = 19,
        num_single_layers: int = 38,
        attention_head_dim: int = 128,
        num_attention_heads: int = 24,
        mlp_ratio: float = 4.0,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 768,
        axes_dims_rope: tuple[int, int, int] = (16, 56, 56),
        rope_theta: float = 10000.0,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        if sum(axes_dims_rope) != attention_head_dim:
            raise ValueError(
                f"axes_dims_rope {tuple(axes_dims_rope)} must add up to the head width {attention_head_dim}"
            )
        dim = num_attention_heads * attention_head_dim
        block_sizes = (dim, num_attention_heads, int(dim * mlp_ratio))

        self.pos_embed = OpenSoraRotaryPosEmbed(axes_dims_rope, rope_theta)
        self.time_text_embed = CombinedTimestepTextProjEmbeddings(dim, pooled_projection_dim)
        self.context_embedder = nn.Linear(joint_attention_dim, dim)
        self.x_embedder = nn.Linear(in_channels, dim)
        self.condition_embedder = nn.Linear(condition_channels, dim) if condition_channels else None
        self.transformer_blocks = nn.ModuleList(
            OpenSoraTransformerBlock(*block_sizes, qkv_bias) for _ in range(num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            OpenSoraSingleTransformerBlock(*block_sizes) for _ in range(num_single_layers)
        )
        self.norm_out = AdaLayerNormContinuous(dim, dim, elementwise_affine=False, eps=NORM_EPS)
        self.proj_out = nn.Linear(dim, in_channels)
        self.to_modulation: StackedLinears | None = None
        # (groups, C): added to the embedding of time and caption, see `modulation`.
        self.modulation_offsets: nn.Parameter | None
        self.register_parameter("modulation_offsets", None)
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: Tensor,
        img_ids: Tensor,
        encoder_hidden_states: Tensor,
        txt_ids: Tensor,
        timestep: Tensor | None = None,
        pooled_projections: Tensor | None = None,
        condition: Tensor | None = None,
        modulation: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity, noise minus data, of packed latents.

        Args:
            hidden_states: packed noisy latents (B, N, in_channels).
            img_ids: positions (t, h, w) of the video tokens, (N, 3) or (B or 1, N, 3).
            encoder_hidden_states: T5 embeddings (B, L, joint_attention_dim).
            txt_ids: positions of the text tokens, all zero, (L, 3) or (B or 1, L, 3).
            timestep: flow-matching time in [0, 1], 1 being pure noise, (B,) or a scalar.
            pooled_projections: pooled CLIP embeddings (B, pooled_projection_dim).
            condition: packed mask and masked reference latents (B, N, condition_channels).
            modulation: what :meth:`modulation` made of ``timestep`` and ``pooled_projections``, instead of
            them. return_dict: whether to return an output object rather than a tuple.

        Returns:
            The velocity (B, N, in_channels), as ``.sample``.

        Raises:
            ValueError: if the condition is missing, or given to a model that takes none, or if there is
                neither a time step with its embeddings nor a modulation.
        """
        if (condition is None) != (self.condition_embedder is None):
            takes = "takes no" if self.condition_embedder is None else "needs a"
            raise ValueError(f"this transformer {takes} condition (condition_channels in its configuration)")

        if modulation is None:
            if timestep is None or pooled_projections is None:
                raise ValueError("pass timestep and pooled_projections, or modulation")
            modulation = self.modulation(timestep.expand(len(hidden_states)), pooled_projections)

        hidden_states = self.x_embedder(hidden_states)
        if self.condition_embedder is not None:
            hidden_states = hidden_states + self.condition_embedder(condition)
        encoder_hidden_states = self.context_embedder(encoder_hidden_states)
        txt_ids = txt_ids.expand(*img_ids.shape[:-2], *txt_ids.shape[-2:])
        rotary_emb = self.pos_embed(torch.cat((txt_ids, img_ids), dim=-2))

        of_block = iter(modulation.split(self._modulation_widths(), dim=-1))
        for block in self.transformer_blocks:
            hidden_states, encoder_hidden_states = self._run_block(
                block, hidden_states, encoder_hidden_states, next(of_block), rotary_emb
            )
        num_text_tokens, num_video_tokens = encoder_hidden_states.shape[1], hidden_states.shape[1]
        hidden_states = torch.cat((encoder_hidden_states, hidden_states), dim=1)
        for index, block in enumerate(self.single_transformer_blocks, start=1):
            # Nobody reads what the last block makes of the text.
            first_token = num_text_tokens if index == len(self.single_transformer_blocks) else 0
            hidden_states = self._run_block(block, hidden_states, next(of_block), rotary_emb, first_token)

        scale, shift = next(of_block)[:, None].chunk(2, dim=-1)
        video = modulated_norm(self.norm_out.norm, hidden_states[:, -num_video_tokens:], shift, scale)
        sample = self.proj_out(video)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    @apply_forward_hook
    def modulation(self, timestep: Tensor, pooled_projections: Tensor) -> Tensor:
        """Shifts, scales and gates of all blocks, side by side.

        They depend on nothing else, so one product computes the modulation of all steps of a sampling run: a
        quarter of the weights are then read once instead of in every step.

        Args:
            timestep: flow-matching times (B,).
            pooled_projections: pooled CLIP embeddings (B, pooled_projection_dim).

        Returns:
            (B, 12 C for each double-stream block, 3 C for each single-stream block, 2 C for the output).
        """
        temb = self.time_text_embed(timestep.float() * 1000, pooled_projections)
        layers = self._modulation_layers()
        if self.modulation_offsets is None:
            return project(F.silu(temb), list(chain(*layers)), self.to_modulation).whole()
        # The output has no offset of its own, and takes the last group's.
        groups = np.array_split(np.arange(len(layers) - 1), len(self.modulation_offsets))
        groups[-1] = np.append(groups[-1], len(layers) - 1)
        parts = [
            project(F.silu(temb + offset), list(chain(*(layers[index] for index in group)))).whole()
            for offset, group in zip(self.modulation_offsets, groups, strict=True)
        ]
        return torch.cat(parts, dim=-1)

    def _modulation_layers(self) -> list[list[nn.Module]]:
        """The layers of each block, and those of the output."""
        double = [[block.norm1.linear, block.norm1_context.linear] for block in self.transformer_blocks]
        single = [[block.norm.linear] for block in self.single_transformer_blocks]
        return [*double, *single, [self.norm_out.linear]]

    def _modulation_widths(self) -> list[int]:
        dim = self.proj_out.in_features
        doubles, singles = len(self.transformer_blocks), len(self.single_transformer_blocks)
        return [12 * dim] * doubles + [3 * dim] * singles + [2 * dim]

    def fuse_projections(self) -> None:
        """Compute queries, keys and values in one product, and all modulation in one."""
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            block.attn.fuse_projections()
        self.to_modulation = StackedLinears(list(chain(*self._modulation_layers())))

    def compute_by(
        self,
        *,
        qkv_heads: QKVHeads | None = None,
        attention: Attention | None = None,
        mlp: MLP | None = None,
    ) -> None:
        """Compute parts of all blocks by other functions, which give the same.

        Args:
            qkv_heads: instead of :func:`qkv_heads`.
            attention: scaled dot-product attention of three tensors (B, S, H, D), instead of diffusers'.
            mlp: instead of :func:`gelu_mlp`.
        """
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            block.attn.qkv_heads = qkv_heads or block.attn.qkv_heads
            block.attn.attention = attention or block.attn.attention
            block.mlp = mlp or block.mlp

    def _run_block(
        self, block: nn.Module, *args: Tensor | RotaryEmbedding | int
    ) -> Tensor | tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *args)
        return block(*args)
