"""Open-Sora v2.0 (https://arxiv.org/abs/2503.09642), continuing a clip.

The mode is the published ``v2v_head`` with 33 known frames, the same with any other 4 k + 1, and ``i2v_head``
with one.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_tta.backbones.base import Conditioning
from lora_tta.config import GenerationParams, ModelParams
from lora_tta.errors import FailedWork, UserError
from lora_tta.models.loading import FOR_ENCODING, FOR_GENERATION, load_pipeline
from lora_tta.models.lora_targets import QK_NORMS, layer_paths, lora_target_modules
from lora_tta.models.memory import activation_bytes, available_memory
from lora_tta.models.packing import (
    PATCH_SIZE,
    SPATIAL_COMPRESSION,
    TEMPORAL_COMPRESSION,
    head_mode,
    pack_condition,
    pack_latents,
    prepare_img_ids,
    prepare_txt_ids,
)
from lora_tta.models.pipeline import OpenSoraContinuationPipeline, OpenSoraPipelineOutput
from lora_tta.models.scheduling import add_noise, shift_timesteps, time_shift_alpha, velocity_target
from lora_tta.models.speed.acceleration import GraphedForward, accelerate, find_kernels
from lora_tta.models.transformer import OpenSoraTransformer3DModel
from lora_tta.models.vae import encode_video, preprocess_frames


def load(params: ModelParams, device: torch.device, for_encoding: bool) -> "OpenSoraBackbone":
    """Load a pipeline folder; see :class:`lora_tta.backbones.base.Load`."""
    components = FOR_ENCODING if for_encoding else FOR_GENERATION
    on_gpu = device.type == "cuda" and not for_encoding
    with ThreadPoolExecutor(1) as beside:
        # Importing kernels takes seconds, and so does reading weights.
        kernels = beside.submit(find_kernels) if on_gpu and params.accelerate else None
        pipeline = load_pipeline(params.path, device, getattr(torch, params.dtype), components)
    if kernels is not None:
        accelerate(pipeline.transformer, kernels.result())
    elif on_gpu:
        pipeline.transformer.forward = GraphedForward(pipeline.transformer, max_tokens=0)
    # One bar for the clips is enough.
    pipeline.set_progress_bar_config(disable=True)
    return OpenSoraBackbone(pipeline)


class OpenSoraBackbone:
    """The pipeline behind the interface :class:`lora_tta.backbones.base.Backbone`.

    Its conditionings hold:

    - ``reference_latents`` (1, 16, T, H/8, W/8), scaled latents of the known frames, encoded alone;
    - ``prompt_embeds`` (1, L, D), T5 states of the caption;
    - ``pooled_prompt_embeds`` (1, P), pooled CLIP output of the caption;
    - ``negative_prompt_embeds`` and ``negative_pooled_prompt_embeds``, the same of the empty prompt.
    """

    def __init__(self, pipeline: OpenSoraContinuationPipeline):
        self.pipeline = pipeline

    @property
    def network(self) -> OpenSoraTransformer3DModel:
        """The transformer."""
        return self.pipeline.transformer

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return self.network.proj_out.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the transformer's weights."""
        # `transformer.dtype` walks through all modules, while the GPU waits.
        return self.network.proj_out.weight.dtype

    @property
    def first_use_seconds(self) -> float:
        """Seconds of compiling, capturing and first calls so far; none on the CPU."""
        forward = self.network.forward
        return forward.first_uses.seconds if isinstance(forward, GraphedForward) else 0.0

    @torch.no_grad()
    def encode(self, frames: np.ndarray, caption: str) -> Conditioning:
        """Encode the conditioning frames and the caption of one clip.

        Args:
            frames: (F, H, W, 3) uint8, the conditioning frames and no others.
            caption: the prompt.

        Raises:
            ValueError: F is not 4 k + 1.
        """
        mode = head_mode((len(frames) - 1) // TEMPORAL_COMPRESSION + 1)
        if len(frames) != mode.num_frames:
            raise ValueError(f"expected 4 k + 1 conditioning frames, got {len(frames)}")
        prompt_embeds, pooled_prompt_embeds = self.pipeline.encode_prompt(caption)
        negative_prompt_embeds, negative_pooled_prompt_embeds = self.pipeline.encode_prompt("")
        return Conditioning(
            {
                "reference_latents": self.pipeline.encode_reference(frames, mode),
                "prompt_embeds": prompt_embeds,
                "pooled_prompt_embeds": pooled_prompt_embeds,
                "negative_prompt_embeds": negative_prompt_embeds,
                "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
            }
        )

    def clean_latents(self, conditioning: Conditioning) -> Tensor:
        """Scaled latents of the conditioning frames, float32 (1, 16, T, H/8, W/8)."""
        return conditioning["reference_latents"].float()

    def first_latents(self, conditioning: Conditioning, count: int) -> Conditioning:
        """The others are cut off; the VAE's group norms, which go over time, have left a trace of them."""
        shown = conditioning["reference_latents"][:, :, :count]
        return Conditioning({**conditioning.tensors, "reference_latents": shown})

    @torch.no_grad()
    def encode_view(self, conditioning: Conditioning, frames: np.ndarray, pace: float) -> Conditioning:
        """See :class:`lora_tta.backbones.base.Backbone`; the pace is kept as ``pace`` (1,)."""
        video = preprocess_frames(self.pipeline.video_processor, frames).to(self.device)
        latents = encode_video(self.pipeline.vae, video)
        view = {"reference_latents": latents, "pace": torch.tensor([pace])}
        return Conditioning({**conditioning.tensors, **view})

    def known_part(self, view: Conditioning, count: int) -> Conditioning | None:
        """See :class:`lora_tta.backbones.base.Backbone`; latent frames of slow views are nearer in time."""
        part = int((count - 1) / float(view["pace"])) + 1
        return self.first_latents(view, part) if part > 1 else None

    def shift_timesteps(self, timesteps: Tensor, latents: Tensor) -> Tensor:
        """The published training's shift, see :func:`lora_tta.models.scheduling.time_shift_alpha`."""
        return shift_timesteps(timesteps, time_shift_alpha(_tokens_per_frame(latents), latents.shape[2]))

    def loss(
        self,
        conditioning: Conditioning,
        noise: Tensor,
        timestep: Tensor,
        num_visible: int,
        first_scored: int,
    ) -> Tensor:
        """Mean squared error of the predicted velocity; see :class:`lora_tta.backbones.base.Backbone`."""
        latents = self.clean_latents(conditioning)
        device, dtype = latents.device, conditioning["reference_latents"].dtype
        mask = torch.zeros_like(latents[:, :1])
        mask[:, :, :num_visible] = 1
        num_frames, height, width = latents.shape[2:]
        img_ids = prepare_img_ids(num_frames, height, width, device)
        if "pace" in conditioning.tensors:
            img_ids[:, 0] *= conditioning["pace"]
        prediction = self.network(
            hidden_states=pack_latents(add_noise(latents, noise, timestep)).to(dtype),
            img_ids=img_ids,
            encoder_hidden_states=conditioning["prompt_embeds"],
            txt_ids=prepare_txt_ids(conditioning["prompt_embeds"].shape[1], device),
            timestep=timestep,
            pooled_projections=conditioning["pooled_prompt_embeds"],
            condition=pack_condition(mask, latents * mask).to(dtype),
        ).sample
        target = pack_latents(velocity_target(latents, noise))
        scored = slice(first_scored * _tokens_per_frame(latents), None)
        return F.mse_loss(prediction[:, scored].float(), target[:, scored])

    def recompute_activations(self, conditioning: Conditioning, recompute: bool | None) -> None:
        """Switch gradient checkpointing, which costs a second forward pass, on or off."""
        if recompute is None:
            latents = conditioning["reference_latents"]
            num_text_tokens = conditioning["prompt_embeds"][..., 0].numel()
            num_tokens = latents[:, 0].numel() // PATCH_SIZE**2 + num_text_tokens
            adapts_mlps = any(
                parameter.requires_grad and any(f".{layer}." in name for layer in self.layer_names(["mlp"]))
                for name, parameter in self.network.named_parameters()
            )
            needed = activation_bytes(self.network, num_tokens, mlp_adapters=adapts_mlps)
            recompute = needed > available_memory(latents.device)
        if recompute == self.network.gradient_checkpointing:
            return  # The switch walks through all modules, while the GPU waits.
        if recompute:
            self.network.enable_gradient_checkpointing()
        else:
            self.network.disable_gradient_checkpointing()

    @torch.no_grad()
    def sample(
        self, conditioning: Conditioning, num_frames: int, params: GenerationParams, seed: int
    ) -> np.ndarray:
        """Sample and decode; see :class:`lora_tta.backbones.base.Backbone`."""
        known, *latent_size = conditioning["reference_latents"].shape[2:]
        height, width = (SPATIAL_COMPRESSION * size for size in latent_size)
        last: dict[str, Tensor] = {}

        def keep(pipeline: object, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
            last.update(tensors)
            return {}

        inputs: dict[str, Any] = dict(conditioning.tensors)
        output = self.pipeline(
            mode=head_mode(known),
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=params.num_inference_steps,
            guidance_scale=params.guidance_scale,
            image_guidance_scale=params.image_guidance_scale,
            guidance_oscillation=params.guidance_oscillation,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
            callback_on_step_end=keep,
            **inputs,
        )
        frames = cast(np.ndarray, cast(OpenSoraPipelineOutput, output).frames[0])
        # Decoded values are clamped to [0, 1], so infinite ones would not be seen in the frames.
        if not (torch.isfinite(last["latents"]).all() and np.isfinite(frames).all()):
            raise FailedWork("the generated frames are not finite")
        return frames

    @torch.no_grad()
    def reconstruct(self, frames: np.ndarray) -> np.ndarray:
        """Encode and decode frames, 4 k + 1 of them; see :class:`lora_tta.backbones.base.Backbone`."""
        video = preprocess_frames(self.pipeline.video_processor, frames).to(self.device)
        decoded = self.pipeline.decode(encode_video(self.pipeline.vae, video))
        return cast(np.ndarray, self.pipeline.video_processor.postprocess_video(decoded, "np"))[0]

    def layer_names(
        self, kinds: Sequence[str], last_blocks: int | None = None, pattern: str | None = None
    ) -> list[str]:
        """See :func:`lora_tta.models.lora_targets.lora_target_modules`."""
        names = lora_target_modules(attention="attention" in kinds, mlp="mlp" in kinds)
        if last_blocks is None and pattern is None:
            return names
        paths = layer_paths(self.network, names, last_blocks, pattern)
        if not paths:
            raise UserError(
                f"adaptation.method.pattern {pattern!r} matches no layer of {', '.join(kinds)} in the blocks "
                "that last_blocks leaves; paths look like transformer_blocks.0.attn.to_q"
            )
        return paths

    def weight_names(self, kind: Literal["qk_norms", "all"]) -> list[str]:
        """Paths of weights; those of fused projections and of the kernels have no gradients."""
        if self.network.to_modulation is not None:
            raise UserError(
                "this method trains weights to which the accelerated model gives no gradients: set "
                "model.accelerate to false"
            )
        names = [name for name, _ in self.network.named_parameters()]
        return [name for name in names if kind == "all" or name.split(".")[-2] in QK_NORMS]

    def put_offsets(self, groups: int) -> nn.Parameter:
        """Offsets of the embedding of time and caption, before the layers of each block's modulation."""
        network = self.network
        num_blocks = len(network.transformer_blocks) + len(network.single_transformer_blocks)
        if groups > num_blocks:
            raise UserError(f"adaptation.method.groups is {groups}, and the model has {num_blocks} blocks")
        like = network.proj_out.weight
        offsets = nn.Parameter(like.new_zeros(groups, network.proj_out.in_features))
        network.modulation_offsets = offsets
        return offsets

    def remove_offsets(self) -> None:
        """As before :meth:`put_offsets`."""
        self.network.modulation_offsets = None


def _tokens_per_frame(latents: Tensor) -> int:
    return (latents.shape[-2] // PATCH_SIZE) * (latents.shape[-1] // PATCH_SIZE)
