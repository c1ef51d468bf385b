"""The optimisation of one adapter, which can be stopped at any step and continued bit-identically."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.optimization import get_constant_schedule_with_warmup
from torch import Tensor

from lora_tta.adaptation.masters import Masters
from lora_tta.adaptation.methods.base import AdaptationMethod
from lora_tta.adaptation.objective import AdaptationLoss
from lora_tta.backbones.base import Backbone, Conditioning
from lora_tta.config import AdaptationParams
from lora_tta.errors import FailedWork
from lora_tta.files import write_text
from lora_tta.peak_memory import PeakMemory

ADAPTER_FOLDER, RECORD_NAME, STATE_NAME = "adapter", "adaptation.json", "optimizer.pt"


@dataclass(frozen=True)
class AdaptationRecord:
    """The course of an adaptation.

    Attributes:
        num_parameters: number of trained values.
        losses: of each step.
        seconds: of all steps, and of what decided on their number.
        peak_memory_bytes: the largest of all steps.
        held_out_errors: by the number of steps after which they were looked at; empty without stopping.
    """

    num_parameters: int
    losses: tuple[float, ...]
    seconds: float
    peak_memory_bytes: int
    held_out_errors: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "AdaptationRecord":
        """Read the record that :meth:`Snapshot.save` wrote."""
        values = json.loads((folder / RECORD_NAME).read_text())
        errors = {int(steps): error for steps, error in values["held_out_errors"].items()}
        return cls(**values | {"losses": tuple(values["losses"]), "held_out_errors": errors})


@dataclass(frozen=True)
class Snapshot:
    """An adaptation after ``len(losses)`` steps.

    Attributes:
        parameters: the method's tensors on the CPU.
        optimizer: state of AdamW, of the learning-rate schedule and of the parameters in float32, enough to
            continue.
        losses: the loss of each step so far.
        seconds: time spent so far, without first uses (:attr:`Backbone.first_use_seconds`).
        peak_memory_bytes: the largest of the steps so far.
        limit: the number of steps that was allowed, if fewer could be taken.
        held_out_errors: see :class:`AdaptationRecord`.
    """

    parameters: dict[str, Tensor] = field(repr=False)
    optimizer: dict[str, Any] = field(repr=False)
    losses: tuple[float, ...]
    seconds: float
    peak_memory_bytes: int
    limit: int | None = None
    held_out_errors: Mapping[int, float] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """The number of steps that was asked for; without a limit all of them are taken."""
        return len(self.losses) if self.limit is None else self.limit

    def save(self, method: AdaptationMethod, folder: Path) -> None:
        """Write the parameters in the method's format, with losses and costs beside them."""
        method.save(folder / ADAPTER_FOLDER, self.parameters)
        record = AdaptationRecord(
            num_parameters=sum(tensor.numel() for tensor in self.parameters.values()),
            losses=self.losses,
            seconds=self.seconds,
            peak_memory_bytes=self.peak_memory_bytes,
            held_out_errors=self.held_out_errors,
        )
        write_text(folder / RECORD_NAME, json.dumps(asdict(record)))

    def save_optimizer(self, folder: Path) -> None:
        """Write the optimiser's state, which only continuing needs."""
        torch.save(self.optimizer, folder / STATE_NAME)

    @classmethod
    def load(cls, method: AdaptationMethod, folder: Path, optimizer_folder: Path) -> "Snapshot":
        """Read what :meth:`save` and :meth:`save_optimizer` wrote."""
        record = AdaptationRecord.load(folder)
        return cls(
            parameters=method.read(folder / ADAPTER_FOLDER),
            optimizer=torch.load(optimizer_folder / STATE_NAME, weights_only=True),
            losses=record.losses,
            seconds=record.seconds,
            peak_memory_bytes=record.peak_memory_bytes,
            held_out_errors=record.held_out_errors,
        )


def adapt(
    backbone: Backbone,
    method: AdaptationMethod,
    conditioning: Conditioning,
    params: AdaptationParams,
    seed: int,
    save_at: Sequence[int] = (),
    start: Snapshot | None = None,
    variants: Sequence[Conditioning] = (),
) -> Iterator[Snapshot]:
    """Fine-tune a freshly attached method on one clip's conditioning frames.

    AdamW in float32 with weight decay, a linear warm-up and then a constant learning rate, gradients
    clipped by their norm. The schedule does not depend on the number of steps, so a long run passes through
    every shorter one. Where memory runs out, the adaptation begins again with recomputation in the backward
    pass.

    Args:
        backbone: holds the adapted parameters afterwards.
        method: attached to ``backbone``.
        conditioning: on the model's device and in its precision.
        params: of the optimisation and the loss.
        seed: of the initialisation and of all draws.
        save_at: step counts below ``params.num_steps`` to yield a snapshot at as well.
        start: a snapshot of the same clip, settings and seed to continue from.
        variants: other views of the clip, on the model's device and in its precision.

    Yields:
        Snapshots in the order of their steps, the last after ``params.num_steps``.

    Raises:
        FailedWork: a loss is not finite.
        torch.OutOfMemoryError: memory runs out with recomputation too.
    """
    views = conditioning, *variants
    try:
        for snapshot in _adapt(backbone, method, views, params, seed, save_at, start, recompute=None):
            start = snapshot
            yield snapshot
        return
    except torch.OutOfMemoryError:
        pass
    # Not in the handler: the exception keeps alive what the failed attempt had allocated.
    torch.cuda.empty_cache()
    yield from _adapt(backbone, method, views, params, seed, save_at, start, recompute=True)


def _adapt(
    backbone: Backbone,
    method: AdaptationMethod,
    views: Sequence[Conditioning],
    params: AdaptationParams,
    seed: int,
    save_at: Sequence[int],
    start: Snapshot | None,
    recompute: bool | None,
) -> Iterator[Snapshot]:
    parameters = method.attach(seed)
    masters = Masters(parameters)
    optimizer = torch.optim.AdamW(
        masters.weights, lr=params.learning_rate, weight_decay=params.weight_decay, fused=True
    )
    schedule = get_constant_schedule_with_warmup(optimizer, params.warmup_steps)
    loss_of = AdaptationLoss(backbone, views[0], params, seed, views[1:])
    losses: list[Tensor | float] = []
    snapshot = Snapshot({}, {}, (), 0.0, 0)
    if start is not None:
        method.restore(start.parameters)
        masters.restore(start.optimizer["masters"])
        optimizer.load_state_dict(start.optimizer["optimizer"])
        schedule.load_state_dict(start.optimizer["schedule"])
        losses.extend(start.losses)
        snapshot = start

    stops = {step for step in save_at if step < params.num_steps} | {params.num_steps}
    backbone.recompute_activations(views[0], recompute)
    memory, began = PeakMemory(backbone.device), clock(backbone)
    for step in range(len(losses), params.num_steps):
        loss = loss_of.at(step)
        loss.backward()
        masters.take_gradients()
        torch.nn.utils.clip_grad_norm_(masters.weights, params.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        masters.give_back()
        losses.append(loss.detach())
        if step + 1 in stops:
            values = [float(value) for value in losses]
            _check_finite(values)
            losses = list(values)
            snapshot = replace(
                snapshot,
                parameters=method.state(),
                optimizer=_to_cpu(
                    {
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "masters": masters.state(),
                    }
                ),
                losses=tuple(values),
                seconds=snapshot.seconds + clock(backbone) - began,
                peak_memory_bytes=max(snapshot.peak_memory_bytes, memory.bytes()),
            )
            yield snapshot
            began = clock(backbone)


def clock(backbone: Backbone) -> float:
    """A clock in seconds that stands still during first uses."""
    return time.perf_counter() - backbone.first_use_seconds


def _check_finite(losses: Sequence[float]) -> None:
    for step, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            raise FailedWork(f"the training loss is {loss:g} at step {step}")


def _to_cpu(state: dict[str, Any]) -> dict[str, Any]:
    return torch.utils._pytree.tree_map_only(
        Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state
    )
