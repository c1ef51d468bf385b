"""The optimisation loop both trainings share: seeded, resumable, with averaged weights."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from lora_tta.embedded.recipe import Optimisation
from lora_tta.errors import UserError
from lora_tta.files import atomic

CHECKPOINT = "checkpoint"
STEP_FILE = "step.json"
LOSS_FILE = "losses.jsonl"
SEEDS_PER_PROCESS = 100_000_000


def completed_steps(output: Path) -> int:
    """Steps in the checkpoint of an interrupted training.

    Raises:
        UserError: if the folder holds none.
    """
    path = Path(output) / CHECKPOINT / STEP_FILE
    if not path.is_file():
        raise UserError(f"no checkpoint in {output} to resume from; start without --resume")
    return json.loads(path.read_text())["step"]


def step_generator(seed: int, step: int, device: torch.device, process: int = 0) -> torch.Generator:
    """Randomness of one step: the same whether or not the training was interrupted before it."""
    return torch.Generator(device).manual_seed((seed + 1009 * process) * 10_000_019 + step)


def first_seed_of(accelerator: Accelerator) -> int:
    """Where the seeds of a process's clips begin: processes that train together draw different ones."""
    return accelerator.process_index * SEEDS_PER_PROCESS


def _progress(settings: Optimisation, step: int, seconds: float) -> float:
    """How much of the training is done before a step: 0 to 1."""
    limit = 60 * settings.max_minutes if settings.max_minutes else math.inf
    return min(1.0, max(step / settings.steps, seconds / limit))


def _learning_rate(settings: Optimisation, step: int, progress: float) -> float:
    """Linear warm-up over steps, then a cosine to zero over what is left."""
    if step < settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    warm = settings.warmup_steps / settings.steps
    return settings.learning_rate * (1 + math.cos(math.pi * (progress - warm) / (1 - warm))) / 2


def _save_checkpoint(accelerator: Accelerator, output: Path, step: int) -> None:
    with atomic(output / CHECKPOINT) as partial:
        accelerator.save_state(str(partial))
        (partial / STEP_FILE).write_text(json.dumps({"step": step}))


def optimise(
    accelerator: Accelerator,
    objective: nn.Module,
    loss_of_step: Callable[[nn.Module, int], Tensor],
    save: Callable[[], None],
    settings: Optimisation,
    output: Path,
    first_step: int,
    checkpoint_every: int,
    stop_after: int | None = None,
) -> None:
    """Train ``objective`` and leave the averaged weights in it.

    Args:
        accelerator: device, precision and checkpoints.
        objective: module whose parameters are trained.
        loss_of_step: called with the prepared module and the step's index; draws the step's data.
        save: writes the model; called at every checkpoint, while the averaged weights are in place.
        settings: hyperparameters.
        output: folder for the checkpoint and for ``losses.jsonl``.
        first_step: 0, or the number of steps in the checkpoint that is resumed from.
        checkpoint_every: steps between two checkpoints.
        stop_after: end after this step, with a checkpoint, as an interruption would.
    """
    output.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
    )
    average = EMAModel(parameters, decay=settings.ema_decay, foreach=True)
    prepared, optimizer = accelerator.prepare(objective, optimizer)
    average.to(accelerator.device)
    accelerator.register_for_checkpointing(average)
    if first_step:
        accelerator.load_state(output / CHECKPOINT)
        average.to(accelerator.device)

    last_step = min(settings.steps, stop_after or settings.steps)
    losses = []
    began = time.monotonic()
    with tqdm(
        total=settings.steps,
        initial=first_step,
        mininterval=5,
        desc=output.name,
        disable=not accelerator.is_main_process,
    ) as bar:
        for step in range(first_step, last_step):
            seconds = torch.tensor(time.monotonic() - began, device=accelerator.device)
            # All processes go by the first one's clock.
            progress = _progress(settings, step, broadcast(seconds).item() if settings.max_minutes else 0.0)
            is_last = step + 1 == last_step or progress == 1.0
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(settings, step, progress)
            loss = loss_of_step(prepared, step)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(parameters, settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            average.step(parameters)
            losses.append(loss.detach())
            bar.update()
            if len(losses) == 100 or is_last:
                mean = torch.stack(losses).mean().item()
                losses.clear()
                bar.set_postfix(loss=f"{mean:.5f}")
                if accelerator.is_main_process:
                    with open(output / LOSS_FILE, "a") as file:
                        file.write(
                            json.dumps({"step": step + 1, "loss": mean, "progress": round(progress, 4)})
                            + "\n"
                        )
            if (step + 1) % checkpoint_every == 0 or is_last:
                if accelerator.is_main_process:
                    average.store(parameters)
                    average.copy_to(parameters)
                    save()
                    average.restore(parameters)
                    _save_checkpoint(accelerator, output, step + 1)
                accelerator.wait_for_everyone()
            if is_last:
                break
    average.copy_to(parameters)
