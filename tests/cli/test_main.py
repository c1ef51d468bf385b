import shutil
from pathlib import Path

import pytest

from lora_tta.cli.main import main
from lora_tta.config import load_params

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(PARAMS_FILE.read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_params_sets_a_value_and_keeps_the_comments(workspace):
    assert main(["params", "search.n_trials=9", "search.space.rank=[2, 4]"]) == 0
    params = load_params(workspace / "params.yaml")
    assert (params.search.n_trials, params.search.space.rank) == (9, [2, 4])
    assert "# finished trials in all" in (workspace / "params.yaml").read_text()


@pytest.mark.parametrize(
    "assignment", ["search.n_trials=none", "search.trials=3", "n_trials=3", "search.n_trials", "search=1"]
)
def test_params_refuses_a_wrong_assignment_and_leaves_the_file(workspace, capsys, assignment):
    before = (workspace / "params.yaml").read_text()
    assert main(["params", assignment]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert (workspace / "params.yaml").read_text() == before


def test_cache_lists_kinds_with_their_sizes(workspace, capsys):
    from lora_tta.cache.store import ContentCache

    params = load_params(workspace / "params.yaml").cache
    cache = ContentCache(params.path, params.max_bytes)
    cache.fetch("adapter", {"a": 1}, lambda folder: (folder / "weights").write_bytes(bytes(2_000_000)))
    assert main(["cache"]) == 0
    assert "adapter" in (listed := capsys.readouterr().out)
    assert "2.0 MB" in listed
    assert main(["cache", "--max-gigabytes", "0"]) == 0
    assert cache.find("adapter", {"a": 1}) is None


def test_summary_without_a_run_says_what_to_do(workspace, capsys):
    assert main(["summary"]) == 2
    assert "dvc repro" in capsys.readouterr().err


def test_the_presets_lead_to_the_full_model_and_back(workspace, tiny_model):
    before = load_params(workspace / "params.yaml")
    for name in ("embedded", "opensora-v2"):
        shutil.copytree(tiny_model, workspace / "models" / name)
    assert main(["params", "--preset", "opensora-v2"]) == 0
    full = load_params(workspace / "params.yaml")
    assert (full.preprocess.height, full.preprocess.width, full.model.dtype) == (192, 336, "bfloat16")
    assert (full.generation.guidance_scale, full.generation.image_guidance_scale) == (7.5, 3.0)
    assert main(["params", "--preset", "embedded"]) == 0
    assert load_params(workspace / "params.yaml") == before


def test_missing_weights_name_the_files_their_source_and_the_conversion(workspace, capsys):
    assert main(["params", "--preset", "opensora-v2"]) == 2
    message = capsys.readouterr().err
    for part in ("hpcai-tech/Open-Sora-v2", "Open_Sora_v2.safetensors", "lora-tta convert"):
        assert part in message
