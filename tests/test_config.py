from pathlib import Path

import pytest

from lora_tta.config import TrackingParams, load_params, validate_params
from lora_tta.errors import UserError

PARAMS_FILE = Path(__file__).parent.parent / "params.yaml"
TEXT = PARAMS_FILE.read_text()


def written(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def test_the_repositorys_parameters_are_valid():
    params = load_params(PARAMS_FILE)
    assert (params.preprocess.height, params.preprocess.width) == (64, 112)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("height: 64", "height: 60"), "preprocess.height"),
        (("num_inference_steps: 2", "num_inference_step: 2"), "generation.num_inference_step"),
        (("  seed: 0", "  sede: 0"), "preprocess.sede: unknown key \\(did you mean seed\\?\\)"),
        (
            ("    rank: 8\n", "    ranks: 8\n"),
            "adaptation.method.lora.ranks: unknown key \\(did you mean rank\\?\\)",
        ),
        (("\ncache:", "\ncach:"), "cach: unknown key \\(did you mean cache\\?\\)"),
        (("      direction: max", "      directon: max"), r"did you mean direction\?"),
        (("guidance_scale: 1.0  ", "guidance_scale: true  "), "generation.guidance_scale"),
        (("guidance_oscillation: true", "guidance_oscillation: 1"), "generation.guidance_oscillation"),
        (("num_threads: 1 ", "num_threads: true "), "model.num_threads"),
        (("max_gigabytes: 20", "max_gigabytes: .nan"), "cache.max_gigabytes"),
        (("learning_rate: 1.0e-3", "learning_rate: .inf"), "adaptation.learning_rate"),
        (("sampler: tpe", "sampler: annealing"), "search.sampler"),
        (("max_grad_norm: 1.0", "max_grad_norm: much"), "adaptation.max_grad_norm"),
        (("rank: [4, 8, 16]", "rank: []"), "search.space.rank"),
        (("primary: psnr", "primary: sharpness"), "evaluation.primary: 'sharpness' is no metric"),
        (("search_clips: 5 ", "search_clips: 0 "), "preprocess.search_clips"),
        (("search_clips: 5 ", "search_clips: 16 "), "preprocess: search_clips must be below num_clips"),
        (("size: null", "size: 512px"), "preprocess.size"),
        (("windows_per_video: 1", "windows_per_video: 0"), "preprocess.windows_per_video"),
        (("stride: null", "stride: 0"), "preprocess.stride"),
        (
            ("conditioning_frames: 33", "conditioning_frames: 32"),
            "preprocess.conditioning_frames: 32 is not 4 k \\+ 1, .* take 29 or 33",
        ),
        (("generated_frames: 32", "generated_frames: 30"), "30 is not a multiple of 4, .* take 28 or 32"),
        (("generated_frames: 32", "generated_frames: 3"), "preprocess.generated_frames: .* take at least 4"),
        (
            ("generated_frames: 32 ", "generated_frames: 8 "),
            "evaluation.fvd takes 16 frames: preprocess.generated_frames is 8",
        ),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_key(tmp_path, change, named):
    text = TEXT.replace("fvd: off", "fvd: auto")
    assert change[0] in text
    with pytest.raises(UserError, match=named) as error:
        load_params(written(tmp_path, text.replace(*change)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("frames", "held_out", "problem"),
    [
        (33, 7, None),
        (33, 8, "hold out at most 7"),
        (9, 1, None),
        (9, 2, "at most 1"),
        (5, 1, "set stopping to null"),
    ],
)
def test_stopping_leaves_latent_frames_to_adapt_to(frames, held_out, problem):
    values = load_params(PARAMS_FILE).model_dump()
    values["preprocess"]["conditioning_frames"] = frames
    stopping = {"held_out": held_out, "every": 1, "patience": 1, "draws": 1, "min_gain": 0.0, "refit": True}
    values["adaptation"]["stopping"] = stopping
    if problem is None:
        validate_params(values, PARAMS_FILE)
    else:
        with pytest.raises(UserError, match=f"held_out is {held_out}, .*{problem}"):
            validate_params(values, PARAMS_FILE)


@pytest.mark.parametrize(
    "value", ["!!int 1.5", "!!float x", "9" * 5000, "[" * 500, "{[]: 1, []: 2}", "*nothing"]
)
def test_what_no_yaml_library_makes_a_value_of_is_one_line(tmp_path, value):
    text = TEXT.replace("num_threads: 1 ", f"num_threads: {value} #")
    with pytest.raises(UserError, match="is not valid YAML") as error:
        load_params(written(tmp_path, text))
    assert "\n" not in str(error.value)


def test_without_a_number_of_clips_that_of_the_search_is_free(tmp_path):
    text = TEXT.replace("num_clips: 16 ", "num_clips: null ").replace("search_clips: 5 ", "search_clips: 99 ")
    assert load_params(written(tmp_path, text)).preprocess.search_clips == 99


@pytest.mark.parametrize(
    ("name", "proposed"),
    [
        ("team/lora", "team-lora would do"),
        ("it's", "it-s would do"),
        ("../../up", "up would do"),
        ("a:b", "a-b would do"),
        (" lora ", "lora would do"),
        ("", "no valid name"),
        ("n" * 300, f"{'n' * 200} would do"),
        ("a\nb", "a-b would do"),
    ],
)
@pytest.mark.parametrize("key", ["tracking.experiment", "search.study_name"])
def test_a_name_that_no_file_filter_or_registry_takes_is_refused_with_one_that_would_do(
    params, key, name, proposed
):
    section, name_key = key.split(".")
    values = params.model_dump()
    values[section][name_key] = name
    with pytest.raises(UserError) as error:
        validate_params(values, PARAMS_FILE)
    assert f"{key}: " in str(error.value)
    assert proposed in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["lora-tta", "a", "LoRA 2.0 draft", "Über_1"])
def test_other_names_are_taken(params, name):
    values = params.model_dump()
    values["tracking"]["experiment"] = values["search"]["study_name"] = name
    assert validate_params(values, PARAMS_FILE).search.study_name == name


def with_uri(params, uri: str) -> TrackingParams:
    values = params.model_dump()
    values["tracking"]["uri"] = uri
    return validate_params(values, PARAMS_FILE).tracking


@pytest.mark.parametrize(
    ("uri", "advice"),
    [
        ("mlruns", "sqlite:///mlruns/mlflow.db"),
        ("file:///tmp/mlruns", "migrate-filestore"),
        ("./mlruns", "is a folder"),
        ("ftp://host/runs", "write sqlite:///PATH"),
        ("sqlite://", "is no place"),
        ("sqlite:///:memory:", "is no place"),
        ("databricks", "is a folder"),
        ("http://", "names no host"),
        ("postgresql:///runs", "names no host"),
    ],
)
def test_a_place_that_mlflow_cannot_log_to_is_refused_with_what_to_write(params, uri, advice):
    with pytest.raises(UserError, match=r"tracking\.uri: ") as error:
        with_uri(params, uri)
    assert advice in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "uri", ["https://mlflow.example.org:5000/prefix", "postgresql+psycopg://user@host/runs"]
)
def test_servers_and_databases_are_taken(params, uri):
    assert with_uri(params, uri).uri == uri


@pytest.mark.parametrize("key", ["tracking.uri", "search.storage"])
@pytest.mark.parametrize(
    "secret", ["user:hunter2@host/name", "user:@host/name", "host/name?password=hunter2"]
)
def test_a_password_is_refused_and_not_repeated(params, key, secret):
    section, name = key.split(".")
    values = params.model_dump()
    values[section][name] = f"postgresql://{secret}"
    with pytest.raises(UserError, match=f"{key}: holds a password.*PGPASSWORD") as error:
        validate_params(values, PARAMS_FILE)
    assert "hunter2" not in str(error.value)


PROCESSES = "  processes: auto "


@pytest.mark.parametrize("processes", ["auto", 1, 8])
def test_processes_are_counted_or_a_number(tmp_path, processes):
    assert PROCESSES in TEXT
    text = TEXT.replace(PROCESSES, f"  processes: {processes} ")
    assert load_params(written(tmp_path, text)).workers.processes == processes


@pytest.mark.parametrize("processes", ["0", "-1", "many", "1.5", "true", "null", ""])
def test_other_numbers_of_processes_are_one_line_that_names_the_key(tmp_path, processes):
    with pytest.raises(UserError, match=r"workers\.processes") as error:
        load_params(written(tmp_path, TEXT.replace(PROCESSES, f"  processes: {processes} ")))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("metric", ["lpips", "temporal_lpips"])
def test_lpips_as_objective_demands_the_trained_backbone(tmp_path, metric):
    text = TEXT.replace("- metric: psnr", f"- metric: {metric}").replace(
        "direction: maximize", "direction: minimize"
    )
    with pytest.raises(UserError, match=r"evaluation\.lpips: required"):
        load_params(written(tmp_path, text))
    load_params(written(tmp_path, text.replace("lpips: auto", "lpips: required")))


def test_broken_yaml_and_a_missing_file_say_so(tmp_path):
    with pytest.raises(UserError, match="not valid YAML"):
        load_params(written(tmp_path, "data: ["))
    with pytest.raises(UserError, match="not found"):
        load_params(tmp_path / "elsewhere.yaml")
