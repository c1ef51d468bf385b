"""The loss of test-time adaptation: flow matching on the latents of the 33 conditioning frames."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_tta.backbones.conditioning import Conditioning
from lora_tta.config import AdaptationParams
from lora_tta.models import OpenSoraTransformer3DModel
from lora_tta.models.packing import pack_condition, pack_latents, prepare_img_ids, prepare_txt_ids
from lora_tta.models.scheduling import add_noise, shift_timesteps, time_shift_alpha, velocity_target


class FlowMatchingObjective:
    """The loss of one clip as a function of the step, with its random draws fixed by (seed, step).

    Each step draws its own noise, timestep and visible frames from a generator seeded by the step
    alone, so a trajectory continues bit-identically from any step, whatever was run before.
    """

    def __init__(self, conditioning: Conditioning, params: AdaptationParams, seed: int):
        latents = conditioning.reference_latents
        _, _, num_frames, height, width = latents.shape
        self.conditioning = conditioning
        self.params = params
        self.seed = seed
        self.num_frames = num_frames
        self.tokens_per_frame = (height // 2) * (width // 2)
        self.img_ids = prepare_img_ids(num_frames, height, width, latents.device)
        self.txt_ids = prepare_txt_ids(conditioning.prompt_embeds.shape[1], latents.device)

    def loss(self, transformer: OpenSoraTransformer3DModel, step: int) -> Tensor:
        """Mean squared error of the predicted velocity at ``step`` (0-based); a scalar in float32.

        Source: spec, "Training". The condition shown with the noisy latents is a choice:

        - ``all``: every frame that is to be denoised (the published objective);
        - ``prefix``: the first 1 to 8 latent frames, with the loss on the others, as in ``v2v_head``;
        - ``none``: no frame.
        """
        latents = self.conditioning.reference_latents.float()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        noise = _send(torch.randn(latents.shape, generator=generator), latents.device)
        timestep = _send(self._draw_timestep(generator), latents.device)
        num_visible = self._draw_visible_frames(generator)

        mask = torch.zeros_like(latents[:, :1])
        mask[:, :, :num_visible] = 1
        dtype = self.conditioning.reference_latents.dtype
        prediction = transformer(
            hidden_states=pack_latents(add_noise(latents, noise, timestep)).to(dtype),
            img_ids=self.img_ids,
            encoder_hidden_states=self.conditioning.prompt_embeds,
            txt_ids=self.txt_ids,
            timestep=timestep,
            pooled_projections=self.conditioning.pooled_prompt_embeds,
            condition=pack_condition(mask, latents * mask).to(dtype),
        ).sample
        target = pack_latents(velocity_target(latents, noise))
        first_hidden = num_visible if self.params.condition == "prefix" else 0
        hidden = slice(first_hidden * self.tokens_per_frame, None)
        return F.mse_loss(prediction[:, hidden].float(), target[:, hidden])

    def _draw_timestep(self, generator: torch.Generator) -> Tensor:
        if self.params.timesteps == "uniform":
            return torch.rand(1, generator=generator)
        alpha = time_shift_alpha(self.tokens_per_frame, self.num_frames)
        return shift_timesteps(torch.sigmoid(torch.randn(1, generator=generator)), alpha)

    def _draw_visible_frames(self, generator: torch.Generator) -> int:
        match self.params.condition:
            case "all":
                return self.num_frames
            case "none":
                return 0
            case "prefix":
                return int(torch.randint(1, self.num_frames, (1,), generator=generator))


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, sent without waiting for the work that a GPU has yet to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
