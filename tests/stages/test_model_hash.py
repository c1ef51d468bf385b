"""An untracked model is read once: by DVC, for itself and for the stages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lora_tta.cache import model_identity as module
from lora_tta.cache.model_identity import model_identity
from lora_tta.stages.model_hash import hash_by_dvc, remember_model

DVC = [sys.executable, "-m", "dvc"]
PIPELINE = "stages:\n  encode:\n    cmd: echo done > done\n    deps: [models/untracked]\n    outs: [done]\n"


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    """A model folder that is a link, as to a larger disk, in a DVC repository."""
    elsewhere = tmp_path / "disk" / "model"
    (elsewhere / "transformer").mkdir(parents=True)
    (elsewhere / "transformer" / "weights.safetensors").write_bytes(b"weights" * 1000)
    (elsewhere / "model_index.json").write_text("{}")
    repository = tmp_path / "repository"
    (repository / "models").mkdir(parents=True)
    (repository / "models" / "untracked").symlink_to(elsewhere)
    (repository / "dvc.yaml").write_text(PIPELINE)
    subprocess.run([*DVC, "init", "-q", "--no-scm"], cwd=repository, check=True)
    monkeypatch.chdir(repository)
    return Path("models/untracked")


def test_dvc_repro_reads_no_file_that_the_stage_has_hashed(model):
    identity = hash_by_dvc(model)
    weights = model / "transformer" / "weights.safetensors"
    stat = weights.stat()
    with weights.open("r+b") as file:  # only who reads the file can see this
        file.write(b"another")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    subprocess.run([*DVC, "repro", "-q"], check=True)

    (dep,) = YAML(typ="safe").load(Path("dvc.lock"))["stages"]["encode"]["deps"]
    assert dep["md5"] == identity


def test_dvcs_hash_is_the_pipelines_own(model, tmp_path):
    assert hash_by_dvc(model) == model_identity(model, tmp_path / "memory.json")


def test_the_stages_after_it_find_the_identity_remembered(model, tmp_path, monkeypatch):
    remember_model(model, tmp_path)
    monkeypatch.setattr(module, "hash_folder", lambda folder, *_: pytest.fail(f"{folder} was read"))
    assert model_identity(model, tmp_path / "models.json").endswith(".dir")


def test_outside_of_a_dvc_repository_the_pipeline_hashes_the_files(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "disk")
    assert hash_by_dvc(Path("model")) is None
    remember_model(Path("model"), tmp_path)
