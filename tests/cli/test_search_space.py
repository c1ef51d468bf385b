"""What a user may search and optimise, by the command that sets it, and the settings at a point of the space."""

import pytest
from pydantic import ValidationError

from lora_tta.cli.main import main
from lora_tta.config import AdaptationParams, load_params


def refusal(capsys, *assignments: str) -> str:
    """The one line in which the command refuses the assignments."""
    assert main(["params", *assignments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: params.yaml: ")
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("weight_decay", [0.0, 0.1]),
        ("warmup_steps", [0, 5]),
        ("max_grad_norm", [0.5, 1]),
        ("condition", ["all", "prefix", "none"]),
        ("timesteps", ["uniform", "logit_normal"]),
        ("seed", [0, 1, 2]),
        ("alpha_over_rank", [1.0, 2.0]),
        ("rank", [2, 4]),
    ],
)
def test_any_setting_of_the_adaptation_and_its_method_can_be_searched(workspace, name, choices):
    assert main(["params", f"search.space.{name}={choices}"]) == 0
    params = load_params(workspace / "params.yaml")
    assert params.search.space[name] == choices
    for choice in choices:
        adaptation = params.adaptation.at({name: choice})
        assert choice == getattr(adaptation, name, None) or choice == getattr(adaptation.method, name)


@pytest.mark.parametrize(
    ("name", "nearest"), [("wieght_decay", "weight_decay"), ("ranks", "rank"), ("alpha", "alpha_over_rank")]
)
def test_an_unknown_name_in_the_space_is_refused_with_the_nearest_valid_one(
    workspace, capsys, name, nearest
):
    message = refusal(capsys, f"search.space.{name}=[1]")
    assert f"search.space: {name} is no setting of adaptation" in message
    if name != "alpha":  # too far from any
        assert f"{nearest} is" in message
