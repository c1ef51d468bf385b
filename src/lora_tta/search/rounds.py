"""The rounds of a search: one study, or a cheap one that screens points and one that confirms the best."""

from collections.abc import Sequence
from dataclasses import dataclass

import optuna

from lora_tta.config import Params, SearchParams
from lora_tta.experiment.runner import ClipRunner
from lora_tta.records.clips import Clip
from lora_tta.records.search_folders import SearchFolders
from lora_tta.search.guesses import Guess, warm_start
from lora_tta.search.study import open_study, point_of, ranked_trials
from lora_tta.search.worker import Worker

SCREENING, CONFIRMATION = "screening", "confirmation"


@dataclass(frozen=True)
class Round:
    """A study of a search.

    Attributes:
        name: empty if it is the only one.
        params: with the sampling steps, the number of trials and the name of this study.
        clips: of each of its trials, in their order.
        guesses: the points that it tries first.
    """

    name: str
    params: Params
    clips: Sequence[Clip]
    guesses: Sequence[Guess]

    def open(self, folders: SearchFolders) -> optuna.Study:
        """Open its study; see :func:`~lora_tta.search.study.open_study`."""
        identity = self.runner(folders).study_identity(self.clips)
        return open_study(folders.study, self.params, identity, self.guesses)

    def runner(self, folders: SearchFolders) -> ClipRunner:
        """A runner of its clips."""
        return ClipRunner(self.params, folders.clips, folders.encoded)


def first_round(params: Params, clips: Sequence[Clip]) -> Round:
    """The search itself, or its screening.

    Raises:
        UserError: see :func:`~lora_tta.search.guesses.warm_start`.
    """
    guesses, _ = warm_start(params.search)
    screening = params.search.screening
    if screening is None:
        return Round("", params, clips, guesses)
    steps = screening.num_inference_steps or params.generation.num_inference_steps
    cheap = params.model_copy(
        update={
            "generation": params.generation.model_copy(update={"num_inference_steps": steps}),
            "search": _renamed(params, SCREENING),
        }
    )
    return Round(SCREENING, cheap, clips[: screening.num_clips], guesses)


def second_round(params: Params, clips: Sequence[Clip], study: optuna.Study) -> Round | None:
    """What follows on the screening in ``study``, which has ended: its best points on all clips; or nothing.

    Raises:
        UserError: no trial of the screening was completed.
    """
    if params.search.screening is None:
        return None
    best = ranked_trials(study, params.search.num_trials)[: params.search.screening.finalists]
    guesses = [Guess(point_of(trial), f"{study.study_name}/{trial.number}") for trial in best]
    search = _renamed(params, CONFIRMATION).model_copy(update={"n_trials": len(guesses)})
    return Round(CONFIRMATION, params.model_copy(update={"search": search}), clips, guesses)


def _renamed(params: Params, name: str) -> SearchParams:
    return params.search.model_copy(update={"study_name": f"{params.search.study_name}-{name}"})


def run_worker(
    params: Params, folders: SearchFolders, clips: Sequence[Clip], shows_progress: bool = True
) -> None:
    """Work until the search has ended; the entry point of a process of its own."""
    first = first_round(params, clips)
    runner = first.runner(folders)
    worker = Worker(first.params, folders, first.clips, shows_progress, first.guesses, runner)
    worker.work()
    if second := second_round(params, clips, worker.study):
        runner = runner.at(second.params)
        Worker(second.params, folders, second.clips, shows_progress, second.guesses, runner).work()
