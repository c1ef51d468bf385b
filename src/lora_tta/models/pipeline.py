"""Sampling with Open-Sora v2.0: continuation of a video, image to video, and text to video.

Reference: Open-Sora 2.0, https://arxiv.org/abs/2503.09642.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel

from lora_tta.models.guidance import Guidance
from lora_tta.models.packing import (
    PATCH_SIZE,
    SPATIAL_COMPRESSION,
    ConditionMode,
    build_condition,
    get_condition_mode,
    latent_video_shape,
    pack_condition,
    pack_latents,
    prepare_img_ids,
    prepare_txt_ids,
    restore_reference,
    unpack_latents,
)
from lora_tta.models.scheduling import set_shifted_timesteps
from lora_tta.models.transformer import OpenSoraTransformer3DModel
from lora_tta.models.vae import (
    Video,
    decode_latents,
    disable_framewise_coding,
    encode_video,
    preprocess_frames,
    select_reference_frames,
)

OUTPUT_TYPES = ("latent", "pt", "np", "pil")
T5_MAX_LENGTH = 512


@dataclass
class OpenSoraPipelineOutput(BaseOutput):
    """Output of the pipeline.

    Attributes:
        frames: for output type ``pil`` a list of lists of images, for ``np`` an array (B, F, H, W, 3) in [0,
        1],
            for ``pt`` a tensor (B, F, 3, H, W) in [0, 1], for ``latent`` scaled latents (B, C, T, H/8, W/8).
    """

    frames: Tensor | np.ndarray | list[list[Image.Image]]


class OpenSoraContinuationPipeline(DiffusionPipeline):
    """Generates a video from a prompt and, by mode, the frames that are already known.

    Args:
        transformer: velocity model.
        vae: HunyuanVideo VAE; not needed with reference latents and output type ``latent``.
        scheduler: flow-matching scheduler that does not shift by itself.
        tokenizer: tokenizer of the T5 encoder. The text encoders and their tokenizers are not needed with
            precomputed embeddings.
        text_encoder: T5 encoder, whose last hidden state the transformer attends to.
        tokenizer_2: tokenizer of the CLIP text encoder.
        text_encoder_2: CLIP text encoder, whose pooled output modulates the transformer.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->transformer->vae"
    _optional_components = ["vae", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"]  # noqa: RUF012
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012

    def __init__(
        self,
        transformer: OpenSoraTransformer3DModel,
        vae: AutoencoderKLHunyuanVideo | None,
        scheduler: FlowMatchEulerDiscreteScheduler,
        tokenizer: PreTrainedTokenizerBase | None = None,
        text_encoder: T5EncoderModel | None = None,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        text_encoder_2: CLIPTextModel | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            vae=vae,
            scheduler=scheduler,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            tokenizer_2=tokenizer_2,
            text_encoder_2=text_encoder_2,
        )
        if vae is not None:
            disable_framewise_coding(vae)
        self.video_processor = VideoProcessor(vae_scale_factor=SPATIAL_COMPRESSION * PATCH_SIZE)

    @property
    def num_timesteps(self) -> int:
        """Number of steps of the current or last run, for callbacks."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has ended the sampling."""
        return self._interrupt

    @torch.no_grad()
    def encode_prompt(
        self, prompt: str | list[str], device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embed prompts as the model was trained: padded to full length, without an attention mask.

        Args:
            prompt: one prompt or a list of B.
            device: where to run; by default where the pipeline runs.

        Returns:
            T5 embeddings (B, L, joint_attention_dim), L being 512 or the tokenizer's maximum if that is less,
            and pooled CLIP embeddings (B, pooled_projection_dim).

        Raises:
            ValueError: if the pipeline has no text encoders.
        """
        encoders = (self.tokenizer, self.text_encoder, self.tokenizer_2, self.text_encoder_2)
        if any(component is None for component in encoders):
            raise ValueError(
                "this pipeline has no text encoders: pass prompt_embeds and pooled_prompt_embeds, and their "
                "negatives unless both guidance scales are 1"
            )
        device = device or self._execution_device
        prompt = [prompt] if isinstance(prompt, str) else prompt

        def token_ids(tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tensor:
            length = min(tokenizer.model_max_length, max_length)
            tokens = tokenizer(
                prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            return tokens.input_ids.to(device)

        prompt_embeds = self.text_encoder(token_ids(self.tokenizer, T5_MAX_LENGTH)).last_hidden_state
        clip_max_length = self.text_encoder_2.config.max_position_embeddings
        pooled_prompt_embeds = self.text_encoder_2(token_ids(self.tokenizer_2, clip_max_length)).pooler_output
        return prompt_embeds, pooled_prompt_embeds

    def encode_reference(
        self, frames: Video, mode: str | ConditionMode, height: int | None = None, width: int | None = None
    ) -> Tensor:
        """Encode the frames that a mode knows, alone, to ``reference_latents``.

        Args:
            frames: a tensor (B, F, 3, H, W) or (F, 3, H, W), an array (B, F, H, W, 3) or (F, H, W, 3), each
                of floats in [0, 1] or of bytes, or a list of PIL images. Where there are more than the mode
                needs, head modes take the first ones, tail modes the last, ``i2v_loop`` the first and the
                last.
            mode: a name in ``CONDITION_MODES`` other than ``t2v``, or a mode of its own.
            height: pixels to resize to; by default the frames' own.
            width: pixels to resize to; by default the frames' own.

        Returns:
            Scaled latents, float32 (B, C, F, H/8, W/8), F by mode; 1, 2, 9 or 17 in the named ones.

        Raises:
            ValueError: if the pipeline has no VAE or the frames do not fit the mode.
        """
        if self.vae is None:
            raise ValueError("this pipeline has no VAE: pass reference_latents instead of frames")
        video = preprocess_frames(self.video_processor, frames, height, width).to(self._execution_device)
        return torch.cat([encode_video(self.vae, run) for run in select_reference_frames(video, mode)], dim=2)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] = "",
        *,
        mode: str | ConditionMode = "v2v_head",
        frames: Video | None = None,
        reference_latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        image_guidance_scale: float = 3.0,
        guidance_oscillation: bool = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | PipelineCallback | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> OpenSoraPipelineOutput | tuple[Tensor | np.ndarray | list[list[Image.Image]]]:
        """Generate videos.

        Args:
            prompt: one prompt or a list of B.
            negative_prompt: what the guidance steers away from; the published model uses the empty prompt.
            mode: which frames are known: t2v, i2v_head, i2v_tail, i2v_loop, v2v_head, v2v_tail, v2v_head_easy
                or v2v_tail_easy; or a :class:`ConditionMode`, for instance of :func:`head_mode`.
            frames: reference frames, see ``encode_reference``.
            reference_latents: scaled latents (B or 1, C, F, H/8, W/8) of the reference frames, instead of
                ``frames``.
            prompt_embeds: T5 embeddings (B, L, joint_attention_dim), instead of ``prompt``.
            pooled_prompt_embeds: pooled CLIP embeddings (B, pooled_projection_dim).
            negative_prompt_embeds: T5 embeddings (B or 1, L, joint_attention_dim), instead of
                ``negative_prompt``.
            negative_pooled_prompt_embeds: pooled CLIP embeddings (B or 1, pooled_projection_dim).
            height: pixels, a multiple of 16; by default that of ``latents``, the reference, or 192.
            width: pixels, a multiple of 16; by default that of ``latents``, the reference, or 336.
            num_frames: frames in all, 4 k + 1; by default that of ``latents``, or 65.
            num_inference_steps: Euler steps.
            guidance_scale: text guidance, 1 for none.
            image_guidance_scale: guidance by the visual condition, 1 for none.
            guidance_oscillation: whether every odd step from the tenth on goes without guidance.
            generator: source of the starting noise; a list holds one for each video.
            latents: starting noise (B, C, T, H/8, W/8) instead of a generator's.
            output_type: ``latent``, ``pt``, ``np`` or ``pil``.
            return_dict: whether to return an output object rather than a tuple.
            callback_on_step_end: called as (pipeline, step, timestep, tensors) after each step; the tensors
                it returns replace the pipeline's. Setting ``pipeline._interrupt`` ends the sampling.
            callback_on_step_end_tensor_inputs: the tensors it receives, of which there is one: ``latents``
                (B, C, T, H/8, W/8).

        Returns:
            The videos, as ``.frames``. The known frames are part of them.

        Raises:
            ValueError: if the inputs are incomplete or don't fit each other.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        self._check_inputs(
            prompt, mode, frames, reference_latents, output_type, callback_on_step_end_tensor_inputs
        )
        self._interrupt = False
        device, dtype = self._execution_device, self.transformer.dtype

        if frames is not None:
            reference_latents = self.encode_reference(frames, mode, height, width)
        prompt_embeds, pooled_prompt_embeds = self._embeddings(
            prompt, prompt_embeds, pooled_prompt_embeds, "prompt_embeds and pooled_prompt_embeds"
        )
        channels = self.transformer.config.in_channels // PATCH_SIZE**2
        shape = latent_video_shape(
            (len(prompt_embeds), channels), mode, latents, reference_latents, height, width, num_frames
        )
        batch, _, latent_frames, latent_height, latent_width = shape
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        latents = latents.to(device, torch.float32)

        if reference_latents is not None:
            reference_latents = reference_latents.to(device, torch.float32)
        mask, masked_reference = (part.to(device) for part in build_condition(mode, reference_latents, shape))
        guidance = Guidance(
            text_scale=guidance_scale,
            image_scale=image_guidance_scale,
            oscillation=guidance_oscillation,
            has_condition=reference_latents is not None,
        )

        # Inputs of the three branches, in order and as far as needed; they stay the same over all steps.
        condition = pack_condition(mask, masked_reference)
        conditions = torch.cat((condition, condition, torch.zeros_like(condition))).to(dtype)
        if guidance.max_branches > 1:
            negative_prompt_embeds, negative_pooled_prompt_embeds = self._embeddings(
                negative_prompt,
                negative_prompt_embeds,
                negative_pooled_prompt_embeds,
                "negative_prompt_embeds and negative_pooled_prompt_embeds",
            )
            prompt_embeds = _stack_branches(prompt_embeds, negative_prompt_embeds)
            pooled_prompt_embeds = _stack_branches(pooled_prompt_embeds, negative_pooled_prompt_embeds)
        img_ids = prepare_img_ids(latent_frames, latent_height, latent_width, device)
        txt_ids = prepare_txt_ids(prompt_embeds.shape[1], device)

        timesteps = set_shifted_timesteps(
            self.scheduler,
            num_inference_steps,
            tokens_per_frame=len(img_ids) // latent_frames,
            num_latent_frames=latent_frames,
            device=device,
        )
        self._num_timesteps = len(timesteps)
        times = timesteps / self.scheduler.config.num_train_timesteps
        modulations = self.transformer.modulation(
            times.repeat_interleave(len(pooled_prompt_embeds)), pooled_prompt_embeds.repeat(len(times), 1)
        ).unflatten(0, (len(times), -1))
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for step, timestep in enumerate(timesteps):
                if self.interrupt:
                    break
                branches = guidance.num_branches(step)
                rows = branches * batch
                tokens = pack_latents(latents).to(dtype).repeat(branches, 1, 1)
                velocity = self.transformer(
                    hidden_states=tokens,
                    img_ids=img_ids,
                    encoder_hidden_states=prompt_embeds[:rows],
                    txt_ids=txt_ids,
                    condition=conditions[:rows],
                    modulation=modulations[step, :rows],
                    return_dict=False,
                )[0]
                velocity = guidance.combine(velocity.float().chunk(branches))
                velocity = unpack_latents(velocity, latent_frames, latent_height, latent_width)
                latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]

                if callback_on_step_end is not None:
                    tensors = {"latents": latents} if callback_on_step_end_tensor_inputs else {}
                    latents = callback_on_step_end(self, step, timestep, tensors).pop("latents", latents)
                progress_bar.update()

        latents = restore_reference(mode, latents, mask, masked_reference)
        if output_type == "latent":
            output = latents
        else:
            output = self.video_processor.postprocess_video(self.decode(latents), output_type)
        self.maybe_free_model_hooks()
        return OpenSoraPipelineOutput(frames=output) if return_dict else (output,)

    def decode(self, latents: Tensor) -> Tensor:
        """See :func:`decode_latents`; graphs of training and sampling may keep memory that this needs."""
        decode = partial(decode_latents, self.vae, latents)
        with_room = getattr(self.transformer.forward, "with_room", None)
        return with_room(decode, latents.shape if latents.is_cuda else None) if with_room else decode()

    def _check_inputs(
        self,
        prompt: str | list[str] | None,
        mode: str | ConditionMode,
        frames: Video | None,
        reference_latents: Tensor | None,
        output_type: str,
        callback_tensor_inputs: tuple[str, ...] | list[str],
    ) -> None:
        if prompt is not None and not isinstance(prompt, str | list):
            raise ValueError(f"prompt must be a string or a list of strings, got {type(prompt).__name__}")
        if frames is not None and reference_latents is not None:
            raise ValueError("pass frames or reference_latents, not both")
        has_reference = frames is not None or reference_latents is not None
        if (get_condition_mode(mode) is not None) != has_reference:
            verb = "takes no" if has_reference else "needs"
            raise ValueError(f"mode {mode} {verb} frames or reference_latents")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
        if output_type != "latent" and self.vae is None:
            raise ValueError("this pipeline has no VAE: only output_type='latent' is possible")
        if unknown := set(callback_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"callbacks can receive {self._callback_tensor_inputs}, not {sorted(unknown)}")

    def _embeddings(
        self, prompt: str | list[str] | None, embeds: Tensor | None, pooled_embeds: Tensor | None, names: str
    ) -> tuple[Tensor, Tensor]:
        """The given embeddings, or those of the prompt, on the device and in the dtype of the transformer."""
        if (embeds is None) != (pooled_embeds is None):
            raise ValueError(f"pass both of {names}")
        if embeds is None:
            if prompt is None:
                raise ValueError(f"pass prompt, or {names}")
            embeds, pooled_embeds = self.encode_prompt(prompt)
        config = self.transformer.config
        if (
            embeds.ndim != 3
            or embeds.shape[-1] != config.joint_attention_dim
            or pooled_embeds.shape != (len(embeds), config.pooled_projection_dim)
        ):
            raise ValueError(
                f"{names} of shapes {tuple(embeds.shape)} and {tuple(pooled_embeds.shape)} must be "
                f"(B, L, {config.joint_attention_dim}) and (B, {config.pooled_projection_dim})"
            )
        device, dtype = self._execution_device, self.transformer.dtype
        return embeds.to(device, dtype), pooled_embeds.to(device, dtype)


def _stack_branches(embeds: Tensor, negative_embeds: Tensor) -> Tensor:
    """Embeddings of the branches prompt, empty, empty, (3 B, ...), from (B, ...) and (B or 1, ...)."""
    if negative_embeds.shape[0] not in (1, len(embeds)) or negative_embeds.shape[1:] != embeds.shape[1:]:
        raise ValueError(
            f"negative embeddings of shape {tuple(negative_embeds.shape)} do not fit {tuple(embeds.shape)}"
        )
    negative_embeds = negative_embeds.expand_as(embeds)
    return torch.cat((embeds, negative_embeds, negative_embeds))
