"""Clips spread over the processes of one machine."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path

from tqdm import tqdm

from lora_tta.adaptation.trajectory import LoraSettings
from lora_tta.config import Params
from lora_tta.data.clips import Clip
from lora_tta.experiment.runner import ClipRun, ClipRunner


def forkserver(preload: str) -> multiprocessing.context.ForkServerContext:
    """Processes forked from a server that has imported ``preload``, so that torch is imported once for all.

    They are forked before CUDA or a thread is up, which plain forks of this process could not rely on.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    return context


def run_clips(
    params: Params,
    clips_folder: Path,
    encoded: Path,
    clips: Sequence[Clip],
    settings: LoraSettings | None,
    description: str,
) -> list[ClipRun]:
    """Run every clip with one setting in ``workers.processes`` processes; see :meth:`ClipRunner.run`.

    Returns:
        The runs in the order of ``clips``.
    """
    processes = min(params.workers.processes, len(clips))
    arguments = (params, clips_folder, encoded)
    if processes == 1:
        return [_run(*arguments, clip, settings) for clip in tqdm(clips, description, unit="clip")]
    with ProcessPoolExecutor(processes, mp_context=forkserver(__name__)) as pool:
        futures: list[Future[ClipRun]] = [pool.submit(_run, *arguments, clip, settings) for clip in clips]
        for future in tqdm(as_completed(futures), description, total=len(futures), unit="clip"):
            future.result()
        return [future.result() for future in futures]


def _run(
    params: Params, clips_folder: Path, encoded: Path, clip: Clip, settings: LoraSettings | None
) -> ClipRun:
    return _runner(params.model_dump_json(), clips_folder, encoded).run(clip, settings)


@cache
def _runner(params: str, clips_folder: Path, encoded: Path) -> ClipRunner:
    """The runner of this process, which keeps the model between clips."""
    parsed = Params.model_validate_json(params)
    identity = multiprocessing.current_process()._identity
    index = identity[-1] - 1 if identity else 0
    return ClipRunner(parsed, clips_folder, encoded, parsed.search.space.num_steps, device_index=index)
