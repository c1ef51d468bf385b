"""A study as a file that DVC tracks: the same bytes for the same trials, without times and costs.

The study itself changes in place while workers run, and holds time stamps; the export is written whole at the
end of a search. A clone of the repository continues the study from it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from lora_tta.errors import UserError
from lora_tta.files import write_text
from lora_tta.records.metric_table import COSTS

# Attributes of a trial that a continued study needs.
EXPORTED = ("means", "clips", "failure")


def export_study(study: optuna.Study, trials: Sequence[FrozenTrial], folder: Path) -> Path:
    """Write finished trials to ``folder/<name of the study>.json``."""
    path = folder / f"{study.study_name}.json"
    values = {
        "study": study.study_name,
        "directions": [direction.name.lower() for direction in study.directions],
        "trials": [_exported(trial) for trial in trials],
    }
    write_text(path, json.dumps(values, indent=1) + "\n")
    return path


def restore_study(study: optuna.Study, folder: Path, space: Mapping[str, Sequence[Any]]) -> None:
    """Add the trials of the study's export, if there is one, to the empty study.

    Raises:
        UserError: the export is damaged.
    """
    path = folder / f"{study.study_name}.json"
    if not path.exists():
        return
    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(choices) for name, choices in space.items()
    }
    try:
        trials = [_restored(values, distributions) for values in json.loads(path.read_text())["trials"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): run dvc checkout {folder}") from None
    study.add_trials(trials)


def _exported(trial: FrozenTrial) -> dict[str, Any]:
    costs = {cost.name for cost in COSTS}
    attributes = {name: trial.user_attrs[name] for name in EXPORTED if name in trial.user_attrs}
    if "means" in attributes:
        attributes["means"] = {
            name: value for name, value in attributes["means"].items() if name not in costs
        }
    return {
        "number": trial.number,
        "state": trial.state.name,
        "params": trial.params,
        "values": trial.values,
        "constraints": dict(trial.constraints),
        "reports": {str(step): value for step, value in sorted(trial.intermediate_values.items())},
        "attributes": attributes,
    }


def _restored(values: Mapping[str, Any], distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    return create_trial(
        state=TrialState[values["state"]],
        params=values["params"],
        distributions=distributions if values["params"] else {},
        values=values["values"],
        user_attrs=dict(values["attributes"]),
        intermediate_values={int(step): value for step, value in values["reports"].items()},
        constraints=dict(values["constraints"]) or None,
    )
