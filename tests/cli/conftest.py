from pathlib import Path

import pytest

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder with the repository's ``params.yaml``, in which commands run."""
    (tmp_path / "params.yaml").write_text(PARAMS_FILE.read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path
