"""Commands as a user types them in a copy of the repository."""

import os
import subprocess
import sys
from pathlib import Path


def run_in(folder: Path, *command: str) -> str:
    """What a command prints; it finds this environment's programs, and the code in ``folder / "src"``."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
        **{f"GIT_{role}_{field}": "t" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")},
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
