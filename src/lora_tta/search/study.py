"""The Optuna study: its storage and its findings."""

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import IO, Any

import optuna
import pandas as pd
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, TrialState

from lora_tta.cache.keys import digest
from lora_tta.cache.store import ContentCache
from lora_tta.config import Params
from lora_tta.errors import UserError, reason_of
from lora_tta.records.metric_table import COSTS
from lora_tta.records.point import Point
from lora_tta.search.guesses import Guess
from lora_tta.search.samplers import build_pruner
from lora_tta.search.study_export import restore_study

JOURNAL = Path("studies/journal.log")
MEANS_ATTRIBUTE, CLIPS_ATTRIBUTE, FAILURE_ATTRIBUTE = "means", "clips", "failure"
ORIGIN_ATTRIBUTE = "origin"  # of a point that no sampler suggested
FINISHED_STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class JournalLock(BaseJournalFileLock):
    """A lock on a journal file that ends with the process that holds it, and repairs a torn last line.

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
    def _ends_line(file: IO[bytes]) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


# Settings of the search on which the points and values of its trials depend.
IDENTIFYING = {"space", "objectives", "constraints", "sampler", "startup_trials", "pruner", "seed"}


def open_study(
    exports: Path, params: Params, identity: Mapping[str, Any], guesses: Sequence[Guess] = ()
) -> optuna.Study:
    """Open the study, restore it from its export, or create it.

    It lies in a journal file in the cache's folder or in the database of ``search.storage``. Trials are only
    comparable when everything but their points was the same, so the study's name carries a hash of
    ``identity``, the objectives, the space and the guesses: other settings begin a new study beside the old
    one.

    Args:
        exports: folder of the exports of studies.
        params: of the pipeline.
        identity: everything that the value of a trial depends on, besides its point.
        guesses: points that wait in the study from its beginning, to be tried first.

    Raises:
        UserError: the database cannot be reached, or the journal is damaged.
    """
    search = params.search
    key = digest(
        {
            "identity": identity,
            "guesses": [dict(guess.point) for guess in guesses],
            **search.model_dump(include=IDENTIFYING),
        }
    )
    name = f"{search.study_name}-{key[:10]}"
    cache = ContentCache(params.cache.path, params.cache.max_bytes)
    journal = None if search.storage else params.cache.path / JOURNAL
    # One process creates and restores the study, the others find it.
    with _reading(journal), cache.lock({"opening": name}):
        study = optuna.create_study(
            storage=_storage(params, cache),
            study_name=name,
            directions=[objective.direction for objective in search.objectives],
            pruner=build_pruner(search),
            load_if_exists=True,
        )
        restore_study(study, exports, search.dimensions)
        for guess in guesses:
            study.enqueue_trial(dict(guess.point), {ORIGIN_ATTRIBUTE: guess.origin}, skip_if_exists=True)
    return study


@contextmanager
def _reading(journal: Path | None) -> Iterator[None]:
    """Turn what Optuna raises at a damaged journal, which has many kinds, into a :class:`UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if journal is None or isinstance(error, OSError):
            raise
        raise UserError(
            f"{journal} is damaged ({reason_of(error)}): move it away; the search goes on from its last "
            "export, and takes finished work from the cache"
        ) from None


def _storage(params: Params, cache: ContentCache) -> BaseStorage:
    url = params.search.storage
    if url is not None:
        try:
            # One process makes the tables of an empty database.
            with cache.lock({"tables": url}):
                return optuna.storages.get_storage(url)
        except Exception as error:
            raise UserError(
                f"search.storage {url} cannot be opened ({reason_of(error)}): check the URL"
            ) from None
    journal = params.cache.path / JOURNAL
    journal.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalLock(journal, cache.lock({"journal": str(JOURNAL)}))
    return JournalStorage(JournalFileBackend(str(journal), lock))


def finished_trials(study: optuna.Study, limit: int) -> list[FrozenTrial]:
    """The first ``limit`` trials by number, up to one that is not finished: a larger study has the same."""
    trials = study.get_trials(deepcopy=False)[:limit]
    return list(takewhile(lambda trial: trial.state in FINISHED_STATES, trials))


def trial_key(study: optuna.Study, number: int) -> str:
    """A name of the trial, unique among all studies."""
    return f"{study.study_name}/{number}"


def point_of(trial: FrozenTrial | optuna.Trial) -> Point:
    """The trial's point of the space."""
    return dict(trial.params)


def best_trial(study: optuna.Study, limit: int) -> FrozenTrial:
    """The first of :func:`ranked_trials`."""
    return ranked_trials(study, limit)[0]


def ranked_trials(study: optuna.Study, limit: int) -> list[FrozenTrial]:
    """The first ``limit`` finished trials, the best by the first objective first; of equals, the earlier.

    Trials that broke a constraint come after all others; pruned and failed ones are not among them.

    Raises:
        UserError: no trial was completed.
    """
    sign = 1 if study.directions[0] == optuna.study.StudyDirection.MINIMIZE else -1
    finished = finished_trials(study, limit)
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    if not complete:
        reasons = [failure_of(trial) for trial in finished if trial.state == TrialState.FAIL]
        raise UserError(
            f"every trial of the study failed, the first with: {reasons[0]}"
            if reasons
            else "no trial of the study was completed: set search.pruner to none"
        )
    return sorted(
        complete, key=lambda trial: (not is_feasible(trial), sign * values_of(trial)[0], trial.number)
    )


def values_of(trial: FrozenTrial) -> list[float]:
    """The values of a complete trial, one for each objective."""
    if trial.values is None:
        raise ValueError(f"trial {trial.number} has no values")
    return trial.values


def failure_of(trial: FrozenTrial) -> str:
    """The reason of a failed trial."""
    return trial.user_attrs.get(FAILURE_ATTRIBUTE, "no reason is known")


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether the trial kept every constraint."""
    return all(value <= 0 for value in trial.constraints.values())


def trial_table(trials: list[FrozenTrial], costs: Collection[str] = ()) -> pd.DataFrame:
    """One row a trial: number, state, point, and the mean over its clips of everything measured.

    Args:
        trials: finished ones.
        costs: names of the costs to add; they differ whenever they are measured.
    """
    left_out = {cost.name for cost in COSTS}.difference(costs)
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            **trial.params,
            **({ORIGIN_ATTRIBUTE: origin} if (origin := trial.user_attrs.get(ORIGIN_ATTRIBUTE)) else {}),
            "clips": trial.user_attrs.get(CLIPS_ATTRIBUTE, 0),
            **{
                name: value
                for name, value in trial.user_attrs.get(MEANS_ATTRIBUTE, {}).items()
                if name not in left_out
            },
        }
        | ({"failure": failure_of(trial)} if trial.state == TrialState.FAIL else {})
        for trial in trials
    ]
    table = pd.DataFrame(rows)
    # With absent values pandas would make fractions of whole numbers.
    searched = {name for trial in trials for name in trial.params}
    whole = [name for name in searched if all(type(trial.params.get(name, 0)) is int for trial in trials)]
    return table.astype(dict.fromkeys(whole, "Int64"))


def all_finite(values: Mapping[str, float]) -> bool:
    """Whether every value is a finite number."""
    return all(math.isfinite(value) for value in values.values())
