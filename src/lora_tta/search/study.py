"""The Optuna study: where it is stored, how it samples, and what it has found."""

from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
import pandas as pd
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lora_tta.adaptation.trajectory import LoraSettings
from lora_tta.config import SearchParams, SearchSpace
from lora_tta.experiment.fingerprint import derive_seed, digest

JOURNAL_NAME = "journal.log"
MEANS_ATTRIBUTE, RETRY_ATTRIBUTE = "means", "retry_of"


def open_study(folder: Path, params: SearchParams, setting: Mapping) -> optuna.Study:
    """Open the study, or create it in ``folder``.

    Trials are only comparable when everything but rank, learning rate and number of steps was the same,
    so the study's name carries a hash of ``setting`` and of the space: changed settings begin a new study
    beside the old one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = digest({"setting": setting, "space": params.space.model_dump()})
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL_NAME))),
        study_name=f"{params.study_name}-{identity[:10]}",
        direction=params.direction,
        load_if_exists=True,
    )


def retry_unfinished(study: optuna.Study) -> list[FrozenTrial]:
    """Queue the settings of trials that failed or that a killed process left running, once each.

    Returns:
        The trials that were left running; they are failed now.
    """
    abandoned = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    for trial in abandoned:
        study.tell(trial.number, state=TrialState.FAIL)
    retried = {trial.user_attrs.get(RETRY_ATTRIBUTE) for trial in study.trials}
    for trial in study.get_trials(deepcopy=False, states=[TrialState.FAIL]):
        if trial.number not in retried and trial.params:
            study.enqueue_trial(trial.params, user_attrs={RETRY_ATTRIBUTE: trial.number})
    return abandoned


def run_next(
    study: optuna.Study, params: SearchParams, objective: Callable[[optuna.Trial, LoraSettings], float]
) -> None:
    """Run one trial of ``objective``, which gets the trial and its point of the space and returns its value.

    The point depends on the seed and on the trials before it, not on interruptions.
    """
    study.sampler = _sampler(params, derive_seed(params.seed, str(len(study.trials))))
    study.optimize(lambda trial: objective(trial, _suggest(trial, params.space)), n_trials=1)


def finished_trials(study: optuna.Study, limit: int) -> list[FrozenTrial]:
    """The first ``limit`` completed trials by number, so that a larger study does not change them."""
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])[:limit]


def best_trial(trials: list[FrozenTrial], direction: str) -> FrozenTrial:
    """The best of completed trials; the earlier one of equals."""
    sign = 1 if direction == "minimize" else -1
    return min(trials, key=lambda trial: (sign * trial.value, trial.number))


def trial_table(trials: list[FrozenTrial]) -> pd.DataFrame:
    """One row a trial: number, settings, the objective's value and every logged mean."""
    return pd.DataFrame(
        [
            {"trial": trial.number, **trial.params, "value": trial.value, **trial.user_attrs[MEANS_ATTRIBUTE]}
            for trial in trials
        ]
    )


def _suggest(trial: optuna.Trial, space: SearchSpace) -> LoraSettings:
    choices = space.model_dump()
    return LoraSettings(**{name: trial.suggest_categorical(name, choices[name]) for name in choices})


def _sampler(params: SearchParams, seed: int) -> BaseSampler:
    match params.sampler:
        case "tpe":
            return TPESampler(seed=seed)
        case "random":
            return RandomSampler(seed=seed)
        case "grid":
            return GridSampler(params.space.model_dump(), seed=params.seed)
