"""How many steps a clip gets, by the end of its known frames: no frame that is to be generated has a say."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from lora_tta.adaptation.methods.base import AdaptationMethod
from lora_tta.adaptation.trajectory import Snapshot, adapt, clock
from lora_tta.backbones.base import Backbone, Conditioning
from lora_tta.config import AdaptationParams, StoppingParams
from lora_tta.errors import FailedWork, UserError
from lora_tta.peak_memory import PeakMemory


class HeldOutError:
    """The error of continuing the first latent frames to the last known ones, always at the same draws.

    Args:
        backbone: the model.
        conditioning: of all known frames.
        rule: ``held_out`` and ``draws``.
        seed: of the noise. Times are the middles of equal parts of [0, 1], shifted as those of sampling.

    Raises:
        UserError: there are not two latent frames left to adapt to.
    """

    def __init__(self, backbone: Backbone, conditioning: Conditioning, rule: StoppingParams, seed: int):
        self._backbone = backbone
        self._conditioning = conditioning
        latents = backbone.clean_latents(conditioning)
        self.shown = latents.shape[2] - rule.held_out
        if self.shown < 2:
            raise UserError(
                f"adaptation.stopping.held_out is {rule.held_out}: at most {latents.shape[2] - 2} of the "
                f"{latents.shape[2]} known latent frames can be held out"
            )
        generator = torch.Generator().manual_seed(seed)
        self._draws = [
            (
                torch.randn(latents.shape, generator=generator).to(latents.device),
                backbone.shift_timesteps(
                    torch.tensor([(number + 0.5) / rule.draws], device=latents.device), latents
                ),
            )
            for number in range(rule.draws)
        ]

    @torch.no_grad()
    def __call__(self) -> float:
        """The mean over the draws, with the parameters that the model holds."""
        errors = [
            self._backbone.loss(self._conditioning, noise, timestep, self.shown, first_scored=self.shown)
            for noise, timestep in self._draws
        ]
        error = float(torch.stack(errors).mean())
        if not math.isfinite(error):
            raise FailedWork(f"the error of the held-out frames is {error:g}")
        return error


def adapt_until_best(
    backbone: Backbone,
    method: AdaptationMethod,
    conditioning: Conditioning,
    params: AdaptationParams,
    rule: StoppingParams,
    seed: int,
    save_at: Sequence[int] = (),
    variants: Sequence[Conditioning] = (),
) -> Iterator[Snapshot]:
    """As :func:`~lora_tta.adaptation.trajectory.adapt`, with the number of steps chosen for the clip.

    Yields:
        For each of the numbers of steps in ``save_at`` and for ``params.num_steps``, what is best with at
        most so many, whatever other numbers are asked for. The model holds the last of them afterwards.
    """
    limits = sorted({limit for limit in save_at if limit < params.num_steps} | {params.num_steps})
    began = clock(backbone)
    memory = PeakMemory(backbone.device)
    error_of = HeldOutError(backbone, conditioning, rule, seed)
    method.attach(seed)
    fresh = Snapshot(method.state(), {}, (), 0.0, 0)
    errors, bests = {0: error_of()}, [fresh]
    costs = {0: (clock(backbone) - began, memory.bytes())}
    shown = backbone.first_latents(conditioning, error_of.shown)
    looks = range(rule.every, params.num_steps + 1, rule.every)
    as_far = params.model_copy(update={"num_steps": looks[-1]})
    seen = [view for each in variants if (view := backbone.known_part(each, error_of.shown)) is not None]
    for snapshot in adapt(backbone, method, shown, as_far, seed, save_at=looks, variants=seen):
        errors[snapshot.num_steps] = error_of()
        costs[snapshot.num_steps] = clock(backbone) - began, memory.bytes()
        if errors[snapshot.num_steps] < errors[bests[-1].num_steps]:
            # Nothing continues from it: the optimiser's state would be in the way.
            bests.append(replace(snapshot, optimizer={}))
        if snapshot.num_steps - bests[-1].num_steps >= rule.patience * rule.every:
            break
    enough = (1 - rule.min_gain) * errors[0]
    worth = [fresh, *(best for best in bests if errors[best.num_steps] <= enough)]
    chosen = {limit: [best for best in worth if best.num_steps <= limit][-1] for limit in limits}
    whole = conditioning, *variants
    refitted = _refitted(backbone, method, whole, params, seed, chosen) if rule.refit else {}
    parameters = {limit: refitted.get(best.num_steps, best).parameters for limit, best in chosen.items()}
    method.restore(parameters[params.num_steps])
    for limit, best in chosen.items():
        looked = {steps: error for steps, error in errors.items() if steps <= limit}
        seconds, peak = costs[max(looked)]
        again = refitted.get(best.num_steps)
        yield Snapshot(
            parameters=parameters[limit],
            optimizer={},
            losses=(again or best).losses,
            seconds=seconds + (again.seconds if again else 0.0),
            peak_memory_bytes=max(peak, again.peak_memory_bytes if again else 0),
            limit=limit,
            held_out_errors=looked,
        )


def _refitted(
    backbone: Backbone,
    method: AdaptationMethod,
    views: Sequence[Conditioning],
    params: AdaptationParams,
    seed: int,
    chosen: dict[int, Snapshot],
) -> dict[int, Snapshot]:
    """By the numbers of steps that were chosen, but for none: as many on all known frames."""
    steps = sorted({best.num_steps for best in chosen.values()} - {0})
    if not steps:
        return {}
    whole = params.model_copy(update={"num_steps": steps[-1]})
    snapshots = adapt(backbone, method, views[0], whole, seed, save_at=steps, variants=views[1:])
    return {snapshot.num_steps: snapshot for snapshot in snapshots}
