"""The settings of a stage; its cache and MLflow store belong to the repository that the user works in."""

import os
from pathlib import Path

from lora_tta.config import SQLITE, Params, load_params


def load_stage_params() -> Params:
    """``params.yaml`` of this folder, with relative paths of the cache and the MLflow store made absolute.

    A queued experiment of DVC runs in a copy of the repository that is thrown away. It finds the
    repository itself in ``DVC_ROOT``, and there its work and its runs have to go.

    Raises:
        UserError: see :func:`load_params`.
    """
    params = load_params()
    repository = Path(os.environ.get("DVC_ROOT", "")).absolute()
    tracking = params.tracking
    uri = tracking.uri
    if uri.startswith(SQLITE):
        uri = f"{SQLITE}{repository / uri.removeprefix(SQLITE)}"
    return params.model_copy(
        update={
            "tracking": tracking.model_copy(
                update={"uri": uri, "artifact_root": repository / tracking.artifact_root}
            ),
            "cache": params.cache.model_copy(update={"path": repository / params.cache.path}),
        }
    )
