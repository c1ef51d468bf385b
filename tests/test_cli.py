from pathlib import Path

import pytest

from lora_tta.cli import main
from lora_tta.config import load_params

PARAMS_FILE = Path(__file__).parent.parent / "params.yaml"


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
    from lora_tta.experiment.cache import ContentCache

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
