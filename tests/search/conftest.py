import numpy as np
import optuna
import pytest
from small_search import Search

from lora_tta.config import Params

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def with_search(params):
    """The settings with some of the search's changed."""

    def change(**changes) -> Params:
        values = params.model_dump()
        values["search"] |= {
            "n_trials": 12,
            "space": {"rank": [4, 8], "learning_rate": [1e-4, 5e-4], "num_steps": [5, 10, 20]},
            **changes,
        }
        return Params.model_validate(values)

    return change


@pytest.fixture
def search_in(with_search, tmp_path, moving_frames, empty_database):
    def build(name: str, num_clips: int = 2, workers: dict | None = None, **changes) -> Search:
        params = with_search(
            **{
                "sampler": "grid",
                "space": {"rank": [2], "learning_rate": [1e-3, 1e-2], "num_steps": [1, 2]},
                **changes,
            }
        )
        values = params.model_dump()
        values["workers"] |= {"heartbeat_seconds": 0.3, **(workers or {})}
        values["model"]["num_threads"] = 1
        videos = [np.roll(moving_frames, 7 * number, axis=1) for number in range(num_clips)]
        return Search(Params.model_validate(values), tmp_path / name, videos, empty_database)

    return build
