from pathlib import Path

import pytest

from lora_tta.config import load_params
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
        (("num_inference_steps: 8", "num_inference_step: 8"), "generation.num_inference_step"),
        (("sampler: tpe", "sampler: annealing"), "search.sampler"),
        (("max_grad_norm: 1.0", "max_grad_norm: much"), "adaptation.max_grad_norm"),
        (("rank: [4, 8, 16]", "rank: []"), "search.space.rank"),
        (("primary: psnr", "primary: sharpness"), "evaluation.primary: 'sharpness' is no metric"),
        (("search_clips: 4 ", "search_clips: 0 "), "preprocess.search_clips"),
        (("search_clips: 4 ", "search_clips: 12 "), "preprocess: search_clips must be below num_clips"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_key(tmp_path, change, named):
    assert change[0] in TEXT
    with pytest.raises(UserError, match=named) as error:
        load_params(written(tmp_path, TEXT.replace(*change)))
    assert "\n" not in str(error.value)


def test_without_a_number_of_clips_that_of_the_search_is_free(tmp_path):
    text = TEXT.replace("num_clips: 12 ", "num_clips: null ").replace("search_clips: 4 ", "search_clips: 99 ")
    assert load_params(written(tmp_path, text)).preprocess.search_clips == 99


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
    text = TEXT.replace("- metric: psnr", f"- metric: {metric}")
    with pytest.raises(UserError, match=r"evaluation\.lpips: required"):
        load_params(written(tmp_path, text))
    load_params(written(tmp_path, text.replace("lpips: auto", "lpips: required")))


def test_broken_yaml_and_a_missing_file_say_so(tmp_path):
    with pytest.raises(UserError, match="not valid YAML"):
        load_params(written(tmp_path, "data: ["))
    with pytest.raises(UserError, match="not found"):
        load_params(tmp_path / "elsewhere.yaml")
