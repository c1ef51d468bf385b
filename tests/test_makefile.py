"""The Makefile's own work: its list of targets, folder names as they are written, the lock file, cleaning."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from commands import REPOSITORY
from packaging.requirements import Requirement
from packaging.version import Version
from ruamel.yaml import YAML

MAKEFILE = REPOSITORY / "Makefile"
CLIP = REPOSITORY / "tests/data/cases/clip_3gp.3gp"
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Without the flags of the `make test` that these tests may run in.
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=outside | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment is ready; its ``dvc`` does nothing, since a real one takes minutes."""
    for name in ("Makefile", "params.yaml", "pyproject.toml", "requirements.lock"):
        shutil.copy(REPOSITORY / name, tmp_path)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "lora-tta").symlink_to(Path(sys.executable).with_name("lora-tta"))
    (programs / "dvc").write_text("#!/bin/sh\n")
    (programs / "dvc").chmod(0o755)
    (tmp_path / ".venv/.ready").touch()
    return tmp_path


def test_make_alone_explains_every_target():
    listed = make(REPOSITORY).stdout.splitlines()
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE.read_text(), re.MULTILINE)
    assert phony is not None
    assert {line.split()[0] for line in listed} == set(phony[1].split())
    assert all(len(line.split()) > 1 for line in listed)


@pytest.mark.parametrize(
    "name",
    [
        "my videos",
        'it\'s "mine"',
        "(new)",
        "a & touch b",
        "a;touch b",
        "$HOME and $(HOME)",
        "`touch b`",
        "2024",
        "1e3",
        "null",
        "~",
        "[a]",
        "-x",
        "a: b #c",
        "动" * 80,
    ],
)
def test_the_folder_of_a_demo_is_taken_as_it_is_written(checkout, name):
    (checkout / name).mkdir()
    shutil.copy(CLIP, checkout / name)
    done = make(checkout, "demo", f"DATA={name}")
    assert "outputs/evaluate/metrics.json not found" in done.stderr  # the summary, after everything else
    assert YAML(typ="safe").load(checkout / "params.yaml")["data"]["root"] == name
    assert not (checkout / "b").exists()


def test_the_home_folder_is_known_by_its_short_name(checkout):
    (checkout / "home" / "videos").mkdir(parents=True)
    shutil.copy(CLIP, checkout / "home" / "videos")
    make(checkout, "demo", "DATA=~/videos", HOME=str(checkout / "home"))
    root = YAML(typ="safe").load(checkout / "params.yaml")["data"]["root"]
    assert Path(root) == checkout / "home" / "videos"


@pytest.mark.parametrize(("name", "problem"), [("none", "is not a folder"), ("notes", "holds no videos")])
def test_a_folder_without_a_video_is_refused_before_anything_is_done(checkout, name, problem):
    (checkout / "notes").mkdir()
    (checkout / "notes" / "a.mp4").write_text("not a video")
    (checkout / ".venv/bin/dvc").write_text('#!/bin/sh\necho "$1" >> calls\n')
    before = (checkout / "params.yaml").read_bytes()
    done = make(checkout, "demo", f"DATA={name}")
    assert done.returncode
    assert problem in done.stderr
    assert (checkout / "params.yaml").read_bytes() == before
    assert (checkout / "calls").read_text() == "pull\n"


def test_a_demo_without_a_folder_leaves_the_settings_alone(checkout):
    before = (checkout / "params.yaml").read_bytes()
    make(checkout, "demo", DATA="")
    assert (checkout / "params.yaml").read_bytes() == before


def test_clean_removes_caches_of_tools_and_nothing_else(checkout):
    caches = [".pytest_cache", ".ruff_cache", "build", "dist", "src/a/__pycache__"]
    kept = ["data", "models", "outputs", "mlruns", ".cache/lora-tta", ".venv/lib/__pycache__", "src/a"]
    for folder in (*caches, *kept):
        (checkout / folder).mkdir(parents=True, exist_ok=True)
    assert make(checkout, "clean").returncode == 0
    assert not [folder for folder in caches if (checkout / folder).exists()]
    assert not [folder for folder in kept if not (checkout / folder).exists()]


def test_the_lock_file_has_a_version_within_the_bounds_for_every_dependency():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    locked: dict[str, list[Version]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)==([\w.+]+)", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE
    ):
        locked.setdefault(name, []).append(Version(version))
    for text in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        requirement = Requirement(text)
        versions = locked.get(re.sub(r"[-_.]+", "-", requirement.name).lower(), [])
        assert versions, f"{requirement.name} is not locked"
        assert all(version in requirement.specifier for version in versions), text
