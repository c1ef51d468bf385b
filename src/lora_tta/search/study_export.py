"""A study as a file that DVC tracks: the same bytes for the same trials, without times and costs.

The study itself changes in place while workers run, and holds time stamps; the export is written whole at the
end of a search. A clone of the repository continues the study from it.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from lora_tta.errors import UserError
from lora_tta.files import write_text
from lora_tta.records.metric_table import COSTS
from lora_tta.records.space import Dimensions
from lora_tta.search.samplers import distribution_of

# Attributes of a trial that a continued study needs.
EXPORTED = ("means", "clips", "failure", "origin")


def export_study(
    study: optuna.Study, trials: Sequence[FrozenTrial], folder: Path, costs: Collection[str] = ()
) -> Path:
    """Write finished trials to ``folder/<name of the study>.json``.

    Args:
        study: the study.
        trials: its first trials by number, all finished.
        folder: of the exports.
        costs: names of the costs to keep, which the study optimises or constrains.
    """
    path = folder / f"{study.study_name}.json"
    values = {
        "study": study.study_name,
        "directions": [direction.name.lower() for direction in study.directions],
        "trials": [_exported(trial, costs) for trial in trials],
    }
    write_text(path, json.dumps(values, indent=1) + "\n")
    return path


def restore_study(study: optuna.Study, folder: Path, dimensions: Dimensions) -> None:
    """Add the trials of the study's export, if there is one, that the study lacks.

    A study that has other trials than the export's first ones is left as it is.

    Raises:
        UserError: the export is damaged.
    """
    path = folder / f"{study.study_name}.json"
    if not path.exists():
        return
    distributions = {name: distribution_of(dimension) for name, dimension in dimensions.items()}
    try:
        exported = [_restored(values, distributions) for values in json.loads(path.read_text())["trials"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): run dvc checkout {folder}") from None
    held = study.get_trials(deepcopy=False)
    common = exported[: len(held)]
    if [(trial.state, trial.params) for trial in held] == [(trial.state, trial.params) for trial in common]:
        study.add_trials(exported[len(held) :])


def _exported(trial: FrozenTrial, costs: Collection[str]) -> dict[str, Any]:
    left_out = {cost.name for cost in COSTS}.difference(costs)
    attributes = {name: trial.user_attrs[name] for name in EXPORTED if name in trial.user_attrs}
    if trial.state != TrialState.FAIL:
        attributes.pop("failure", None)  # of a try before the one that succeeded
    if "means" in attributes:
        attributes["means"] = {
            name: value for name, value in attributes["means"].items() if name not in left_out
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
        distributions={name: distributions[name] for name in values["params"]},
        values=values["values"],
        user_attrs=dict(values["attributes"]),
        intermediate_values={int(step): value for step, value in values["reports"].items()},
        constraints=dict(values["constraints"]) or None,
    )
