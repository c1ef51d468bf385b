"""The Optuna study: where it is stored, and what it has found."""

import os
from collections.abc import Mapping
from pathlib import Path

import optuna
import pandas as pd
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lora_tta.cache.keys import digest
from lora_tta.cache.store import ContentCache
from lora_tta.config import Params
from lora_tta.errors import UserError
from lora_tta.records.point import LoraSettings
from lora_tta.search.samplers import build_pruner

JOURNAL_NAME = "journal.log"
MEANS_ATTRIBUTE, CLIPS_ATTRIBUTE = "means", "clips"
FINISHED_STATES = (TrialState.COMPLETE, TrialState.PRUNED)


class JournalLock:
    """A lock on a journal file that ends with the process that holds it, and repairs what a crash tore.

    Optuna's own locks are files that a killed process leaves behind for half a minute; and a line cut
    short by a crash would make the lines after it unreadable.
    """

    def __init__(self, journal: Path, lock: FileLock):
        self._journal = journal
        self._lock = lock

    def acquire(self) -> bool:
        """Wait for the lock, then drop a last line without end."""
        self._lock.acquire()
        if self._journal.exists():
            with self._journal.open("rb+") as file:
                content_end = file.seek(0, os.SEEK_END)
                if content_end and not self._ends_line(file):
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let the next one in."""
        self._lock.release()

    @staticmethod
    def _ends_line(file) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def open_study(folder: Path, params: Params, setting: Mapping) -> optuna.Study:
    """Open the study, or create it: in ``folder``, or in the database of ``search.storage``.

    Trials are only comparable when everything but rank, learning rate and number of steps was the same,
    so the study's name carries a hash of ``setting``, the objectives and the space: changed settings begin
    a new study beside the old one.

    Raises:
        UserError: the database cannot be reached.
    """
    search = params.search
    identity = digest(
        {
            "setting": setting,
            **search.model_dump(include={"space", "objectives", "constraints", "sampler", "pruner", "seed"}),
        }
    )
    return optuna.create_study(
        storage=_storage(folder, params),
        study_name=f"{search.study_name}-{identity[:10]}",
        directions=[objective.direction for objective in search.objectives],
        pruner=build_pruner(search),
        load_if_exists=True,
    )


def _storage(folder: Path, params: Params) -> BaseStorage:
    url = params.search.storage
    if url is not None:
        try:
            return optuna.storages.get_storage(url)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UserError(f"search.storage {url} cannot be opened ({reason}): check the URL") from None
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / JOURNAL_NAME
    cache = ContentCache(params.cache.path, params.cache.max_bytes)
    lock = JournalLock(journal, cache.lock({"journal": str(journal.absolute())}))
    return JournalStorage(JournalFileBackend(str(journal), lock))


def finished_trials(study: optuna.Study, limit: int) -> list[FrozenTrial]:
    """The first ``limit`` finished trials by number, so that a larger study does not change them."""
    return study.get_trials(deepcopy=False, states=FINISHED_STATES)[:limit]


def trial_key(study: optuna.Study, number: int) -> str:
    """A name of the trial among those of all studies."""
    return f"{study.study_name}/{number}"


def settings_of(trial: FrozenTrial | optuna.Trial) -> LoraSettings:
    """The trial's point of the space."""
    return LoraSettings(**trial.params)


def best_trial(study: optuna.Study, limit: int) -> FrozenTrial:
    """The best of the first ``limit`` finished trials by the first objective; the earlier of equals.

    A trial that broke a constraint counts only if all did; a pruned one never does.

    Raises:
        UserError: no trial was completed.
    """
    sign = 1 if study.directions[0] == optuna.study.StudyDirection.MINIMIZE else -1
    complete = [trial for trial in finished_trials(study, limit) if trial.state == TrialState.COMPLETE]
    if not complete:
        raise UserError("no trial of the study was completed: set search.pruner to none")
    return min(complete, key=lambda trial: (not is_feasible(trial), sign * trial.values[0], trial.number))


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether the trial kept every constraint."""
    return all(value <= 0 for value in trial.constraints.values())


def trial_table(trials: list[FrozenTrial]) -> pd.DataFrame:
    """One row a trial: number, state, settings, and the mean over its clips of everything measured."""
    return pd.DataFrame(
        [
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                **trial.params,
                "clips": trial.user_attrs[CLIPS_ATTRIBUTE],
                **trial.user_attrs[MEANS_ATTRIBUTE],
            }
            for trial in trials
        ]
    )
