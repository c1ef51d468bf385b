import optuna
import pytest

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
