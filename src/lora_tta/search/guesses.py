"""Points that a study tries before its sampler has a say: the best of an earlier study, or the finalists."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_tta.config import SearchParams, WarmStartParams
from lora_tta.errors import UserError
from lora_tta.records.point import Point, describe
from lora_tta.records.space import misfit


@dataclass(frozen=True)
class Guess:
    """A point to be tried.

    Attributes:
        point: of the space.
        origin: the study and the trial that it comes from.
    """

    point: Point
    origin: str


def warm_start(search: SearchParams) -> tuple[list[Guess], list[str]]:
    """The best points of the earlier study that ``search.warm_start`` names, and what to tell the user.

    Points that are none of the space are left out, with a line each.

    Raises:
        UserError: the file is missing or is neither a ``best.json`` nor the export of a study, or none of its
            points is one of the space.
    """
    if search.warm_start is None:
        return [], []
    guesses, lines = [], []
    for guess in _best_of(search.warm_start):
        if reason := misfit(search.dimensions, guess.point):
            lines.append(f"search.warm_start leaves out {guess.origin} ({describe(guess.point)}): {reason}")
        else:
            guesses.append(guess)
    if not guesses:
        reasons = "; ".join(lines) or "it has no complete trial"
        raise UserError(f"search.warm_start: no point of {search.warm_start.path} can be used: {reasons}")
    return guesses, lines


def _best_of(params: WarmStartParams) -> list[Guess]:
    """The best points in the file, at most as many as asked for; the best one first."""
    try:
        content = json.loads(params.path.read_text())
        if "point" in content:
            return [Guess(content["point"], f"{content['study']}/{content['trial']}")]
        sign = 1 if content["directions"][0] == "minimize" else -1
        complete = [trial for trial in content["trials"] if trial["state"] == "COMPLETE"]
        complete.sort(key=lambda trial: _rank(trial, sign))
        found = [Guess(trial["params"], f"{content['study']}/{trial['number']}") for trial in complete]
        return found[: params.points]
    except FileNotFoundError:
        raise UserError(
            f"search.warm_start.path: {params.path} not found: name a file of outputs/search/study, or the "
            "copy of a best.json (DVC deletes outputs/search/best.json before a search)"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"search.warm_start.path: {params.path} is no best.json and no export of a study ({error})"
        ) from None


def _rank(trial: Mapping[str, Any], sign: int) -> tuple[bool, float, int]:
    """As a study ranks its trials: those that kept the constraints first, the earlier of equals first."""
    broken = any(value > 0 for value in trial["constraints"].values())
    return broken, sign * trial["values"][0], trial["number"]
