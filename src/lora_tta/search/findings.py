"""The findings of a search, of one round or two: its best point, its failures, its table of trials."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from lora_tta.config import SearchParams
from lora_tta.errors import UserError
from lora_tta.records.point import describe
from lora_tta.records.search_folders import SearchFolders
from lora_tta.search.rounds import Round
from lora_tta.search.samplers import random_start
from lora_tta.search.study import (
    best_trial,
    failure_of,
    finished_trials,
    is_feasible,
    point_of,
    trial_table,
    values_of,
)


@dataclass(frozen=True)
class Concluded:
    """A round that has all its trials.

    Attributes:
        of: the round.
        study: its study.
        trials: the finished ones that count.
    """

    of: Round
    study: optuna.Study
    trials: list[FrozenTrial]

    @property
    def best(self) -> FrozenTrial:
        """Its best trial; see :func:`~lora_tta.search.study.best_trial`."""
        return best_trial(self.study, len(self.trials))

    @property
    def failed(self) -> list[FrozenTrial]:
        """The trials that failed."""
        return [trial for trial in self.trials if trial.state == TrialState.FAIL]

    @property
    def shown(self) -> optuna.Study:
        """A study of these trials alone: the study itself may have more."""
        shown = optuna.create_study(directions=self.study.directions)
        shown.add_trials(self.trials)
        return shown


def concluded(of: Round, folders: SearchFolders) -> Concluded:
    """The round's trials, all of which have to be there.

    Raises:
        UserError: some are not.
    """
    study, number = of.open(folders), of.params.search.num_trials
    trials = finished_trials(study, number)
    if len(trials) < number:
        raise UserError(
            f"the workers ended after {len(trials)} of {number} trials: see their output and run again; "
            "nothing that was finished is lost"
        )
    return Concluded(of, study, trials)


def failure_lines(rounds: Sequence[Concluded]) -> list[str]:
    """A line for each trial that failed."""
    return [
        f"{f'{each.of.name} ' if each.of.name else ''}trial {trial.number} failed "
        f"({describe(point_of(trial))}): {failure_of(trial)}"
        for each in rounds
        for trial in each.failed
    ]


def summary_of(search: SearchParams, rounds: Sequence[Concluded]) -> tuple[dict[str, Any], str]:
    """The content of ``best.json``, and the result in a sentence. The last round has the best point.

    Raises:
        UserError: no trial of the last round was completed.
    """
    first, last = rounds[0], rounds[-1]
    best = last.best
    metrics = [objective.metric for objective in search.objectives]
    objectives = dict(zip(metrics, values_of(best), strict=True))
    summary = {
        "study": last.study.study_name,
        "trials": len(first.trials),
        "failed": sum(len(each.failed) for each in rounds),
        "random_start": random_start(search),
        "trial": best.number,
        "point": dict(point_of(best)),
        "objectives": objectives,
    }
    sentence = f"best of {len(first.trials)} trials: {describe(point_of(best))}, {objectives}"
    if last is not first:
        steps = first.of.params.generation.num_inference_steps
        summary |= {
            "screening": {
                "study": first.study.study_name,
                "clips": len(first.of.clips),
                "num_inference_steps": steps,
                "confirmed": len(last.trials),
                "confirmed_on": len(last.of.clips),
            }
        }
        sentence += (
            f"; screened on {len(first.of.clips)} clips with {steps} sampling steps, the best "
            f"{len(last.trials)} confirmed on {len(last.of.clips)} clips"
        )
    if search.constraints:
        complete = [trial for trial in last.trials if trial.state == TrialState.COMPLETE]
        summary["feasible"] = sum(is_feasible(trial) for trial in complete)
        if not summary["feasible"]:
            sentence += "; no trial was feasible: each broke one of search.constraints, the best one too"
    return summary, sentence


def table_of(rounds: Sequence[Concluded], costs: Collection[str]) -> pd.DataFrame:
    """The trials, see :func:`~lora_tta.search.study.trial_table`; with two rounds, the last one's first."""
    tables = [trial_table(each.trials, costs) for each in reversed(rounds)]
    if len(tables) > 1:
        for table, each in zip(tables, reversed(rounds), strict=True):
            table.insert(0, "round", each.of.name)
    return pd.concat(tables, ignore_index=True)
