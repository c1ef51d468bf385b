"""What ends a program in one line: what the user can put right, disks that are full, and interruptions."""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lora_tta.data.video import write_video
from lora_tta.errors import (
    INTERRUPTED,
    FailedWork,
    UserError,
    disk_errors,
    reason_of,
    report_user_errors,
)
from lora_tta.files import write_text


@pytest.fixture
def line(capsys):
    """The one line with which a call ends."""

    def of(run) -> str:
        assert report_user_errors(run) == 2
        (said,) = capsys.readouterr().err.splitlines()
        return said

    return of


@pytest.fixture
def small_files():
    """No file can be longer than 50,000 bytes: the system refuses to write on, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


REPOSITORY = Path(__file__).parents[1]
NOISE = np.random.default_rng(0).integers(0, 256, (65, 64, 96, 3), dtype=np.uint8)


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 10**6),
        lambda path: save_file({"weight": torch.zeros(10**6)}, path),
        lambda path: torch.save(torch.zeros(10**6), path),
        lambda path: np.save(path, NOISE),
        lambda path: write_video(path.with_suffix(".mp4"), NOISE, 24),
    ],
    ids=["Python", "safetensors", "torch", "NumPy", "FFmpeg"],
)
def test_a_disk_that_takes_no_more_is_one_line_whoever_writes(line, tmp_path, write):
    said = line(lambda: write(tmp_path / "file"))
    assert re.search(r"File too large: raise the limit|to its end, as on a full disk: free some space", said)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "No space left on device: free some space"),
        (errno.EDQUOT, "Disk quota exceeded: free some space"),
        (errno.EFBIG, "File too large: raise the limit"),
        (errno.EROFS, "Read-only file system: change its owner or rights, or set another place"),
        (errno.EACCES, "Permission denied: change its owner or rights"),
        (errno.ESTALE, "Stale file handle: the network's disk has gone away"),
        (errno.EMFILE, "Too many open files: raise the number"),
        (errno.ENOENT, "No such file or directory: run the stage that writes it (dvc repro), or check"),
    ],
)
def test_what_the_system_says_of_a_file_names_the_file_and_what_to_do(line, code, said):
    def fail() -> None:
        raise OSError(code, os.strerror(code), "outputs/clips")

    assert line(fail).startswith(f"error: outputs/clips: {said}")


def test_a_disk_is_to_blame_also_behind_another_error_and_not_for_failed_work():
    def fail(kind: type[Exception]) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise kind("it went wrong") from error

    with pytest.raises(UserError, match="No space left on device"), disk_errors():
        fail(RuntimeError)
    with pytest.raises(FailedWork, match="it went wrong"), disk_errors():
        fail(FailedWork)
    assert reason_of(OSError(errno.ENOSPC, "No space left on device")).startswith("No space left")
    assert reason_of(ValueError("no disk")) == "ValueError: no disk"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        report_user_errors(lambda: print(1 / 0))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_one_line_and_leaves_nothing_half_written(line, tmp_path, monkeypatch, number):
    monkeypatch.setattr("os.replace", lambda *_: os.kill(os.getpid(), number))
    # A shell lets what it starts in the background ignore Ctrl-C.
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    assert line(lambda: write_text(tmp_path / "a", "text")) == f"error: {INTERRUPTED}"
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before
    signal.signal(signal.SIGINT, ctrl_c)


def test_a_folder_that_cannot_be_written_to_is_one_line_of_a_stage_without_a_home(tmp_path):
    values = (REPOSITORY / "params.yaml").read_text().replace("root: data", f"root: {tmp_path}/data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "v_Sliding_g01_c01.avi").touch()
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "params.yaml").write_text(values)
    locked.chmod(0o555)
    command = [sys.executable, "-m", "lora_tta.stages.preprocess"]
    if os.geteuid() == 0:  # who may write anywhere
        if not (setpriv := shutil.which("setpriv")):
            pytest.skip("setpriv is not installed")
        command = [setpriv, "--bounding-set=-dac_override", *command]
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    done = subprocess.run(command, cwd=locked, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == "error: outputs: Permission denied: change its owner or rights, or set another place\n"
    )
