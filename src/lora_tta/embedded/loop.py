"""The optimisation loop both trainings share: seeded, resumable, with averaged weights."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from lora_tta.embedded.recipe import Optimisation
from lora_tta.errors import UserError
from lora_tta.files import atomic

CHECKPOINT = "checkpoint"
STEP_FILE = "step.json"
LOSS_FILE = "losses.jsonl"


def completed_steps(output: Path) -> int:
    """Steps in the checkpoint of an interrupted training.

    Raises:
        UserError: if the folder holds none.
    """
    path = Path(output) / CHECKPOINT / STEP_FILE
    if not path.is_file():
        raise UserError(f"no checkpoint in {output} to resume from; start without --resume")
    return json.loads(path.read_text())["step"]


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Randomness of one step: the same whether or not the training was interrupted before it."""
    return torch.Generator(device).manual_seed(seed * 10_000_019 + step)


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
    schedule = get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, settings.steps)
    average = EMAModel(parameters, decay=settings.ema_decay, foreach=True)
    prepared, optimizer = accelerator.prepare(objective, optimizer)
    average.to(accelerator.device)
    accelerator.register_for_checkpointing(schedule, average)
    if first_step:
        accelerator.load_state(output / CHECKPOINT)
        average.to(accelerator.device)

    last_step = min(settings.steps, stop_after or settings.steps)
    losses = []
    with tqdm(total=settings.steps, initial=first_step, mininterval=5, desc=output.name) as bar:
        for step in range(first_step, last_step):
            loss = loss_of_step(prepared, step)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(parameters, settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            average.step(parameters)
            losses.append(loss.detach())
            bar.update()
            if len(losses) == 100 or step + 1 == last_step:
                mean = torch.stack(losses).mean().item()
                losses.clear()
                bar.set_postfix(loss=f"{mean:.5f}")
                if accelerator.is_main_process:
                    with open(output / LOSS_FILE, "a") as file:
                        file.write(json.dumps({"step": step + 1, "loss": mean}) + "\n")
            if (step + 1) % checkpoint_every == 0 or step + 1 == last_step:
                if accelerator.is_main_process:
                    average.store(parameters)
                    average.copy_to(parameters)
                    save()
                    average.restore(parameters)
                _save_checkpoint(accelerator, output, step + 1)
    average.copy_to(parameters)
