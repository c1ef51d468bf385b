"""The optimisation of one adapter, which can be stopped at any step and continued bit-identically."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from diffusers.optimization import get_constant_schedule_with_warmup
from peft import PeftConfig
from torch import Tensor

from lora_tta.adaptation.methods.lora import (
    ADAPTER,
    adapter_state,
    fresh_adapter,
    restore_adapter,
    save_adapter,
)
from lora_tta.adaptation.objective import FlowMatchingObjective
from lora_tta.backbones.conditioning import Conditioning
from lora_tta.config import AdaptationParams
from lora_tta.models import OpenSoraTransformer3DModel
from lora_tta.models.memory import activation_bytes, available_memory
from lora_tta.models.packing import PATCH_SIZE
from lora_tta.peak_memory import PeakMemory
from lora_tta.records.point import LoraSettings

STATE_NAME = "trajectory.pt"


@dataclass(frozen=True)
class Snapshot:
    """An adaptation after ``len(losses)`` steps.

    Attributes:
        config: PEFT's configuration of the adapter.
        adapter: the adapter's tensors on the CPU.
        optimizer: state of AdamW and of the learning-rate schedule, enough to continue.
        losses: the loss of each step so far.
        seconds: time spent so far.
        peak_memory_bytes: the largest of the steps so far.
    """

    config: PeftConfig
    adapter: dict[str, Tensor]
    optimizer: dict = field(repr=False)
    losses: tuple[float, ...]
    seconds: float
    peak_memory_bytes: int

    @property
    def num_steps(self) -> int:
        """Steps taken."""
        return len(self.losses)

    def save(self, folder: Path) -> None:
        """Write a PEFT adapter folder, with what continuing needs beside it."""
        save_adapter(folder, self.config, self.adapter)
        torch.save(
            {
                "adapter": self.adapter,
                "optimizer": self.optimizer,
                "losses": list(self.losses),
                "seconds": self.seconds,
                "peak_memory_bytes": self.peak_memory_bytes,
            },
            folder / STATE_NAME,
        )

    @classmethod
    def load(cls, folder: Path) -> "Snapshot":
        """Read what :meth:`save` wrote."""
        state = torch.load(folder / STATE_NAME, weights_only=True)
        return cls(config=PeftConfig.from_pretrained(folder), **state | {"losses": tuple(state["losses"])})


def adapt(
    transformer: OpenSoraTransformer3DModel,
    conditioning: Conditioning,
    settings: LoraSettings,
    params: AdaptationParams,
    seed: int,
    save_at: Sequence[int] = (),
    start: Snapshot | None = None,
) -> Iterator[Snapshot]:
    """Fine-tune a fresh adapter on one clip's conditioning frames.

    AdamW with weight decay, a linear warm-up and then a constant learning rate, gradients clipped by
    their norm (spec, "The experiment"). The schedule does not depend on the number of steps, so a long
    run passes through every shorter one.

    Args:
        transformer: holds the adapter afterwards.
        conditioning: on the transformer's device and in its dtype.
        save_at: step counts below ``settings.num_steps`` to yield a snapshot at as well.
        start: a snapshot of the same clip, settings and seed to continue from.

    Yields:
        Snapshots in the order of their steps, the last after ``settings.num_steps``.
    """
    parameters = fresh_adapter(transformer, settings.rank, params, seed)
    device = conditioning.reference_latents.device
    optimizer = torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        weight_decay=params.weight_decay,
        fused=True,
    )
    schedule = get_constant_schedule_with_warmup(optimizer, params.warmup_steps)
    objective = FlowMatchingObjective(conditioning, params, seed)
    losses: list[float] = []
    snapshot = Snapshot(transformer.peft_config[ADAPTER], {}, {}, (), 0.0, 0)
    if start is not None:
        restore_adapter(transformer, start.adapter)
        optimizer.load_state_dict(start.optimizer["optimizer"])
        schedule.load_state_dict(start.optimizer["schedule"])
        losses, snapshot = list(start.losses), start

    stops = {step for step in save_at if step < settings.num_steps} | {settings.num_steps}
    _recompute_where_memory_is_short(transformer, conditioning, params)
    memory, began = PeakMemory(device), time.perf_counter()
    for step in range(len(losses), settings.num_steps):
        loss = objective.loss(transformer, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, params.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        if step + 1 in stops:
            losses = [float(value) for value in losses]
            snapshot = replace(
                snapshot,
                adapter=adapter_state(transformer),
                optimizer=_to_cpu({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}),
                losses=tuple(losses),
                seconds=snapshot.seconds + time.perf_counter() - began,
                peak_memory_bytes=max(snapshot.peak_memory_bytes, memory.bytes()),
            )
            yield snapshot
            began = time.perf_counter()


def _recompute_where_memory_is_short(
    transformer: OpenSoraTransformer3DModel, conditioning: Conditioning, params: AdaptationParams
) -> None:
    """Switch gradient checkpointing, which costs a second forward pass, on or off by the memory left."""
    latents = conditioning.reference_latents
    num_tokens = latents[:, 0].numel() // PATCH_SIZE**2 + conditioning.prompt_embeds[..., 0].numel()
    needed = activation_bytes(transformer, num_tokens, mlp_adapters="mlp" in params.targets)
    is_short = needed > available_memory(latents.device)
    if is_short == transformer.gradient_checkpointing:
        return  # The switch walks through all modules, while the GPU waits.
    if is_short:
        transformer.enable_gradient_checkpointing()
    else:
        transformer.disable_gradient_checkpointing()


def _to_cpu(state: dict) -> dict:
    return torch.utils._pytree.tree_map_only(
        Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state
    )
