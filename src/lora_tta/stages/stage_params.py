"""The settings of a stage; its cache and MLflow store belong to the repository that the user works in."""

import json
import os
from pathlib import Path

from lora_tta.config import Params, load_params
from lora_tta.errors import UserError
from lora_tta.places import below
from lora_tta.stages.paths import DISTANCE


def load_stage_params() -> Params:
    """``params.yaml`` of this folder, with relative paths of the cache and the MLflow store made absolute.

    A queued experiment of DVC runs in a copy of the repository that is thrown away. It finds the
    repository itself in ``DVC_ROOT``, and there its work and its runs have to go.

    Raises:
        UserError: see :func:`load_params`.
    """
    params = load_params()
    repository = Path(os.environ.get("DVC_ROOT", "")).absolute()
    places = {name: below(repository, getattr(params.tracking, name)) for name in ("uri", "artifact_root")}
    return params.model_copy(
        update={
            "tracking": params.tracking.model_copy(update=places),
            "cache": params.cache.model_copy(update={"path": repository / params.cache.path}),
        }
    )


def load_measuring_params() -> Params:
    """As :func:`load_stage_params`, with LPIPS and FVD as the stage ``encode`` has decided them.

    Raises:
        UserError: see :func:`load_params`; or there is no decision.
    """
    params = load_stage_params()
    try:
        decided = json.loads(DISTANCE.read_text())
    except FileNotFoundError:
        raise UserError(f"{DISTANCE} not found: run the stage that writes it (dvc repro encode)") from None
    return params.model_copy(update={"evaluation": params.evaluation.model_copy(update=decided)})
