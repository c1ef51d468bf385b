"""The Optuna study: where it is stored, how it samples, and what it has found."""

from collections.abc import Mapping
from pathlib import Path

import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lora_tta.adaptation.trajectory import LoraSettings
from lora_tta.config import SearchParams, SearchSpace
from lora_tta.experiment.fingerprint import derive_seed, digest

JOURNAL_NAME = "journal.log"


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


def abandon_unfinished(study: optuna.Study) -> list[FrozenTrial]:
    """Fail the trials that a killed process left running, and queue their settings again."""
    trials = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    for trial in trials:
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return trials


def ask(study: optuna.Study, params: SearchParams) -> optuna.Trial:
    """The next trial. Its settings depend on the seed and the trials before it, not on interruptions."""
    study.sampler = _sampler(params, derive_seed(params.seed, str(len(study.trials))))
    return study.ask(_distributions(params.space))


def settings_of(trial: optuna.Trial | FrozenTrial) -> LoraSettings:
    """The trial's point of the space."""
    return LoraSettings(**trial.params)


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
            {"trial": trial.number, **trial.params, "value": trial.value, **trial.user_attrs["means"]}
            for trial in trials
        ]
    )


def _distributions(space: SearchSpace) -> dict[str, CategoricalDistribution]:
    return {name: CategoricalDistribution(choices) for name, choices in space.model_dump().items()}


def _sampler(params: SearchParams, seed: int) -> BaseSampler:
    match params.sampler:
        case "tpe":
            return TPESampler(seed=seed)
        case "random":
            return RandomSampler(seed=seed)
        case "grid":
            return GridSampler(params.space.model_dump(), seed=params.seed)
