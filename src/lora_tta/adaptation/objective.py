"""The loss of test-time adaptation: denoising the latents of the conditioning frames."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lora_tta.backbones.base import Backbone, Conditioning
from lora_tta.config import AdaptationParams

GOLDEN_RATIO = (5**0.5 - 1) / 2
"""Its multiples modulo 1 are as evenly spread as those of any number
(Niederreiter 1992, https://doi.org/10.1137/1.9781611970081, chapter 3)."""


class AdaptationLoss:
    """The loss of one clip as a function of the step, with its random draws fixed by (seed, step).

    Each step draws its own noise, timestep and visible frames from a generator seeded by the step
    alone, so a trajectory continues bit-identically from any step, whatever was run before.

    Args:
        backbone: the model.
        conditioning: of the clip, on the model's device and in its precision.
        params: ``condition``, ``scored`` and ``timesteps``.
        seed: of the draws.
        variants: other views of the clip; each step takes one of them or the clip, all equally likely.
    """

    def __init__(
        self,
        backbone: Backbone,
        conditioning: Conditioning,
        params: AdaptationParams,
        seed: int,
        variants: Sequence[Conditioning] = (),
    ):
        self.backbone = backbone
        self.params = params
        self.seed = seed
        self._views = [(view, backbone.clean_latents(view)) for view in (conditioning, *variants)]

    def at(self, step: int) -> Tensor:
        """Error of the predicted velocity at ``step`` (0-based), a scalar in float32.

        The model sees some latent frames without noise, by the setting ``condition``:

        - ``all``: every frame, also those whose error counts (the published objective);
        - ``prefix``: the first 1 to T - 1 latent frames, as in sampling; the error of the others counts, or
          of all frames if ``scored`` says so; none of a single one, which would leave none;
        - ``none``: no frame.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        conditioning, latents = self._views[0]
        if len(self._views) > 1:
            conditioning, latents = self._views[
                int(torch.randint(len(self._views), (1,), generator=generator))
            ]
        noise = _send(torch.randn(latents.shape, generator=generator), latents.device)
        timestep = _send(self._draw_timestep(generator, step, latents), latents.device)
        num_visible = self._draw_visible_frames(generator, latents.shape[2])
        counts_hidden = self.params.condition == "prefix" and self.params.scored == "hidden"
        first_scored = num_visible if counts_hidden else 0
        return self.backbone.loss(conditioning, noise, timestep, num_visible, first_scored)

    def _draw_timestep(self, generator: torch.Generator, step: int, latents: Tensor) -> Tensor:
        match self.params.timesteps:
            case "uniform":
                return torch.rand(1, generator=generator)
            case "stratified":
                # The golden ratio's multiples fill [0, 1] evenly at every length: a run can be continued.
                start = torch.rand(1, generator=torch.Generator().manual_seed(self.seed))
                return (start + step * GOLDEN_RATIO) % 1
            case "shifted":
                return self.backbone.shift_timesteps(torch.rand(1, generator=generator), latents)
            case "logit_normal":
                normal = torch.randn(1, generator=generator)
                return self.backbone.shift_timesteps(torch.sigmoid(normal), latents)

    def _draw_visible_frames(self, generator: torch.Generator, num_frames: int) -> int:
        match self.params.condition:
            case "all":
                return num_frames
            case "none":
                return 0
            case "prefix":
                return int(torch.randint(1, num_frames, (1,), generator=generator)) if num_frames > 1 else 0


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, sent without waiting for the work that a GPU has yet to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
