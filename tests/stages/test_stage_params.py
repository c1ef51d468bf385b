from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lora_tta.cli.main import main
from lora_tta.errors import UserError
from lora_tta.stages.paths import DISTANCE
from lora_tta.stages.stage_params import load_measuring_params, load_stage_params

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def in_copy(tmp_path, monkeypatch):
    """In a copy of a repository, as DVC makes one for a queued experiment."""
    copy = tmp_path / "repository" / ".dvc" / "tmp" / "exps" / "copy"
    copy.mkdir(parents=True)
    (copy / "params.yaml").write_text(PARAMS_FILE.read_text())
    monkeypatch.chdir(copy)
    return copy


def test_in_a_copy_the_cache_and_mlflow_are_those_of_the_repository(in_copy, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    params = load_stage_params()
    assert params.cache.path == tmp_path / "repository/.cache/lora-tta"
    assert params.tracking.uri == f"sqlite:///{tmp_path}/repository/mlruns/mlflow.db"
    assert params.tracking.artifact_root == f"{tmp_path}/repository/mlruns/artifacts"


def test_without_dvc_they_are_those_of_the_current_folder(in_copy, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    params = load_stage_params()
    assert params.cache.path == in_copy / ".cache/lora-tta"
    assert params.tracking.uri == f"sqlite:///{in_copy}/mlruns/mlflow.db"


@pytest.mark.parametrize("uri", ["sqlite:////shared/mlflow.db", "https://mlflow.example.org"])
@pytest.mark.parametrize("root", ["/shared/runs", "s3://bucket/runs", "mlflow-artifacts:/", "file:///runs"])
def test_absolute_places_stay(in_copy, tmp_path, monkeypatch, uri, root):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    settings = [f"tracking.uri={uri}", f"tracking.artifact_root={root}", "cache.path=/shared/cache"]
    assert main(["params", *settings]) == 0
    params = load_stage_params()
    assert (params.tracking.uri, params.tracking.artifact_root) == (uri, root)
    assert params.cache.path == Path("/shared/cache")


@pytest.mark.parametrize("decided", ["untrained", "required"])
def test_stages_that_measure_take_the_lpips_that_was_decided_once(in_copy, decided):
    assert load_stage_params().evaluation.lpips == "auto"
    DISTANCE.parent.mkdir(parents=True)
    DISTANCE.write_text(f'{{"lpips": "{decided}"}}\n')
    assert load_measuring_params().evaluation.lpips == decided


def test_the_stage_that_decides_runs_again_when_a_setting_that_it_decides_on_changes(in_copy):
    stage = YAML(typ="safe").load(PARAMS_FILE.with_name("dvc.yaml"))["stages"]["encode"]
    assert {"model", "evaluation.lpips", "evaluation.fvd"} == set(stage["params"])


def test_without_a_decision_the_stage_that_makes_it_is_named(in_copy):
    with pytest.raises(UserError, match=r"distance\.json not found.*dvc repro encode"):
        load_measuring_params()
