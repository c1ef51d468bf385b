"""What a user may search and optimise, and the settings at a point of the space."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from lora_tta.cli.main import main
from lora_tta.config import AdaptationParams, load_params

REPOSITORY = Path(__file__).parents[2]


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


@pytest.mark.parametrize(("name", "nearest"), [("wieght_decay", "weight_decay"), ("ranks", "rank")])
def test_an_unknown_name_in_the_space_is_refused_with_the_nearest_valid_one(workspace, capsys, name, nearest):
    message = refusal(capsys, f"search.space.{name}=[1]")
    assert f"search.space: {name} is no setting of adaptation, {nearest} is" in message


def test_a_name_in_the_space_that_resembles_none_is_refused_without_a_proposal(workspace, capsys):
    assert "search.space: xyz is no setting of adaptation\n" in refusal(capsys, "search.space.xyz=[1]")


@pytest.mark.parametrize("name", ["stopping", "name"])
def test_a_section_is_not_searched(workspace, capsys, name):
    assert f"search.space: {name} is no setting of adaptation" in refusal(
        capsys, f"search.space.{name}=[lora]"
    )


def test_the_method_is_searched_with_the_settings_of_its_own(workspace):
    assert (
        main(["params", "search.space={method: [lora, offset], rank: [2, 4], groups: [1], num_steps: [50]}"])
        == 0
    )
    params = load_params(workspace / "params.yaml")
    assert params.search.num_trials == 3
    offset = params.adaptation.at({"method": "offset", "groups": 1, "num_steps": 50})
    assert offset.method.model_dump() == {"name": "offset", "groups": 1}
    assert params.adaptation.at({"method": "lora", "rank": 2, "num_steps": 50}).method.alpha_over_rank == 2


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            "{method: [lora, offset]}",
            "search.space: the method offset has groups too, which the space must have",
        ),
        ("{method: [lora, ofset]}", "search.space.method: 'ofset': "),
        ("{groups: [1, 4]}", "search.space: groups is no setting of adaptation"),
        ("{rank: {low: 0, high: 8}}", "search.space.rank: 0: "),
        ("{rank: {low: 2.0, high: 8.0}}", "search.space.rank: 8.0: "),
        ("{rank: {low: 9, high: 8}}", "search.space.rank: low, 9, must be below high, 8"),
        ("{rank: {low: 9}}", "search.space.rank.high: Field required"),
        ("{rank: {low: 2, high: 9, steps: 2}}", "search.space.rank.steps: unknown key (did you mean step?)"),
        ("{learning_rate: {low: 1, high: 2}}", "takes fractions: write 1.0 for a range"),
        ("{rank: [2], seed: {choices: [0, 1], when: {rank: 4}}}", "space.seed: 4 is no choice of rank"),
        ("{seed: {choices: [0, 1], when: {rank: 4}}}", "space.seed depends on rank, which must be a list"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(workspace, capsys, space, message):
    assert message in refusal(capsys, f"search.space={space}")


def test_the_grid_takes_no_range(workspace, capsys):
    message = refusal(capsys, "search.sampler=grid", "search.space.rank={low: 2, high: 9}")
    assert "the sampler grid takes lists alone, and space.rank is a range" in message


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["search.startup_trials=3", "search.sampler=random"], "startup_trials must be null"),
        (["search.startup_trials=1", "search.sampler=nsgaii"], "startup_trials must be 2 or more"),
        (
            ["search.screening={num_clips: null, num_inference_steps: 2, finalists: 2}"],
            "costs as much as no screening",
        ),
        (
            ["search.screening={num_clips: 2, num_inference_steps: 3, finalists: 2}"],
            "num_inference_steps is above generation.num_inference_steps, 2",
        ),
    ],
)
def test_settings_of_a_search_that_do_nothing_are_refused(workspace, capsys, assignments, message):
    assert message in refusal(capsys, *assignments)


@pytest.mark.parametrize("name", ["stopping", "name"])
def test_a_refused_name_is_not_proposed(workspace, capsys, name):
    assert f"{name} is\n" not in refusal(capsys, f"search.space.{name}=[lora]")


@pytest.mark.parametrize("choices", ["[2,2]", "[2, 4, 2.0]"])
def test_a_choice_that_is_named_twice_is_refused(workspace, capsys, choices):
    assert "space.rank holds 2 twice" in refusal(capsys, f"search.space.rank={choices}")


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("learning_rate", "[.inf]"),
        ("learning_rate", "[1.0e-3, .nan]"),
        ("weight_decay", "[-.inf]"),
        ("rank", "[.nan]"),
        ("rank", "[2.5]"),
        ("num_steps", "[0]"),
        ("condition", "[prefx]"),
        ("rank", "[]"),
    ],
)
def test_a_choice_that_is_no_value_of_its_setting_is_refused_and_named(workspace, capsys, name, choices):
    assert f"search.space.{name}: " in refusal(capsys, f"search.space.{name}={choices}")


@pytest.mark.parametrize(
    ("assignment", "list_name"),
    [
        (
            "search.objectives=[{metric: psnr, direction: maximize}, {metric: psnr, direction: maximize}]",
            "objectives",
        ),
        ("search.constraints=[{metric: psnr, at_most: 9}, {metric: psnr, at_most: 8}]", "constraints"),
    ],
)
def test_a_metric_that_is_named_twice_is_refused(workspace, capsys, assignment, list_name):
    assert f"{list_name} holds psnr twice" in refusal(capsys, assignment)


@pytest.mark.parametrize(
    ("assignment", "key", "nearest"),
    [
        ("search.objectives=[{metric: pnsr, direction: maximize}]", "search.objectives.0.metric", "psnr"),
        (
            "search.constraints=[{metric: peak_memory, at_most: 9}]",
            "search.constraints.0.metric",
            "peak_memory_mib",
        ),
    ],
)
def test_a_wrong_name_of_a_metric_is_refused_with_the_nearest_one(
    workspace, capsys, assignment, key, nearest
):
    message = refusal(capsys, assignment)
    assert f"{key}: " in message
    assert f"did you mean {nearest}?" in message


@pytest.mark.parametrize(
    ("metric", "direction", "better"),
    [
        ("psnr", "minimize", "maximize"),
        ("motion_error", "maximize", "minimize"),
        ("lpips_untrained", "maximize", "minimize"),
        ("peak_memory_mib", "maximize", "minimize"),
    ],
)
def test_an_objective_in_the_wrong_direction_is_refused(workspace, capsys, metric, direction, better):
    message = refusal(capsys, f"search.objectives=[{{metric: {metric}, direction: {direction}}}]")
    assert f"search.objectives.0: {metric} is better the " in message
    assert f"direction must be {better}\n" in message


@pytest.mark.parametrize(
    ("metric", "limit"),
    [("adapt_seconds_per_clip", 0), ("psnr", -1), ("ssim", -1.5), ("motion_error", -1e-9)],
)
def test_a_constraint_that_nothing_can_meet_is_refused(workspace, capsys, metric, limit):
    message = refusal(capsys, f"search.constraints=[{{metric: {metric}, at_most: {limit}}}]")
    assert f"search.constraints.0: no trial can have {metric} at most {limit:g}" in message


@pytest.mark.parametrize("limit", ["true", "'9'"])
def test_a_limit_that_is_no_number_is_refused(workspace, capsys, limit):
    assert "search.constraints.0.at_most: " in refusal(
        capsys, f"search.constraints=[{{metric: psnr, at_most: {limit}}}]"
    )


@pytest.mark.parametrize("limit", [".inf", ".nan"])
def test_a_constraint_that_is_not_finite_is_refused(workspace, capsys, limit):
    message = refusal(capsys, f"search.constraints=[{{metric: psnr, at_most: {limit}}}]")
    assert "search.constraints.0.at_most: " in message


@pytest.fixture
def adaptation(workspace) -> AdaptationParams:
    return load_params().adaptation


def test_at_a_point_its_values_replace_those_of_the_adaptation_and_of_its_method(adaptation):
    there = adaptation.at({"rank": 2, "num_steps": 70})
    assert (there.method.rank, there.num_steps) == (2, 70)
    assert there.at({"rank": adaptation.method.rank, "num_steps": adaptation.num_steps}) == adaptation
    assert adaptation.at({}) == adaptation


def test_at_a_point_a_whole_number_counts_as_a_fraction(adaptation):
    there = adaptation.at({"learning_rate": 1, "alpha_over_rank": 3})
    assert (there.learning_rate, there.method.alpha_over_rank) == (1.0, 3.0)
    assert type(there.learning_rate) is type(there.method.alpha_over_rank) is float


def test_at_a_point_an_unknown_name_is_an_error_with_the_nearest_one(adaptation):
    with pytest.raises(ValueError, match=r"^learn_rate is no setting of adaptation, learning_rate is"):
        adaptation.at({"learn_rate": 1e-3})


@pytest.mark.parametrize(
    "point", [{"rank": 0}, {"rank": 2.5}, {"learning_rate": -1.0}, {"condition": "prefx"}]
)
def test_at_a_point_an_invalid_value_is_an_error_that_names_its_setting(adaptation, point):
    with pytest.raises(ValidationError, match=next(iter(point))):
        adaptation.at(point)


def test_the_space_that_the_documentation_recommends_is_one(workspace):
    """All of its dimensions are settings, and those of a method come with it."""
    assert main(["params", "generation.num_inference_steps=25"]) == 0
    assert main(["params", "--preset", "recommended-search"]) == 0
    search = load_params(workspace / "params.yaml").search
    assert search.num_trials == 24
    assert search.dimensions["last_blocks"].when == {"method": ["lora"]}
