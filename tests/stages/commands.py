"""Commands as a user types them in a copy of the repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from warm_processes import warm_programs

REPOSITORY = Path(__file__).parents[2]
TRACKED = (
    "dvc.yaml",
    "params.yaml",
    "data.dvc",
    "requirements.lock",
    "models/embedded.dvc",
    "models/.gitignore",
    "outputs/.gitignore",
    "outputs/evaluate/.gitignore",
    "outputs/search/.gitignore",
    "mlruns/.gitignore",
    ".dvcignore",
    ".gitignore",
)
# Assignments of `lora-tta params` that make a run of all stages small.
SMALL_RUN = [
    "preprocess.num_clips=3",
    "preprocess.search_clips=1",
    "preprocess.height=32",
    "preprocess.width=48",
    "adaptation.stopping=null",
    "generation.num_inference_steps=2",
    "evaluation.lpips=untrained",
    "evaluation.bootstrap_samples=100",
    "workers.processes=1",
    "search.n_trials=2",
]


def run_in(folder: Path, *command: str, warm: bool = True) -> str:
    """The output of a command; it finds this environment's programs, and the code in ``folder / "src"``.

    The package's own processes are forks of a server that has imported the libraries if ``warm``.
    """
    programs = [*([str(warm_programs())] if warm else []), str(Path(sys.executable).parent)]
    environment = os.environ | {
        "PATH": os.pathsep.join([*programs, os.environ["PATH"]]),
        "PYTHONPATH": str(folder / "src"),
        # The first process that imports the copy's code keeps it compiled for the others.
        "PYTHONDONTWRITEBYTECODE": "",
        # DVC would start a process after each command that tells its makers of it, and one that asks for
        # a newer version.
        "DVC_TEST": "1",
        **{f"GIT_{role}_{field}": "t" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")},
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Workspace:
    """A copy of the repository in which commands run as a user would type them."""

    def __init__(self, folder: Path, with_lock: bool = False):
        self.folder = folder
        (folder / ".dvc").mkdir()
        shutil.copy(REPOSITORY / ".dvc" / "config", folder / ".dvc")
        shutil.copy(REPOSITORY / ".dvc" / ".gitignore", folder / ".dvc")
        for name in (*TRACKED, *(["dvc.lock"] if with_lock else [])):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
        for name in ("src", "dvc-storage"):
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.run("git", "init", "--quiet")
        self.run("git", "add", ".")
        self.run("git", "commit", "--quiet", "-m", "copy")

    def keep_runs_in(self, database: Path) -> None:
        """Begin with a copy of a database of MLflow, which takes seconds to make."""
        shutil.copy(database, self.folder / "mlruns" / "mlflow.db")

    def run(self, *command: str, warm: bool = True) -> str:
        """The output of a command in the copy; see :func:`run_in`."""
        return run_in(self.folder, *command, warm=warm)

    def repro(self, warm: bool = True) -> set[str]:
        """``dvc repro``; returns the stages that ran."""
        lines = self.run("dvc", "repro", warm=warm).splitlines()
        return {line.split("'")[1] for line in lines if line.startswith("Running stage")}

    def json(self, name: str) -> Any:
        """The content of a JSON file below ``outputs``."""
        return json.loads((self.folder / "outputs" / name).read_text())

    def stale(self) -> set[str]:
        """The stages that ``dvc status`` names."""
        status = self.run("dvc", "status")
        return {line.rstrip(":") for line in status.splitlines() if line.endswith(":") and line[0].isalpha()}

    def results(self) -> set[tuple[str, int]]:
        """The cache's results; each has a number that changes if it is made again."""
        entries = (self.folder / ".cache/lora-tta/result").iterdir()
        return {(entry.name, entry.stat().st_ino) for entry in entries}
