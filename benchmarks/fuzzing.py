"""What the fuzzing scripts share: their options, a process for each file, and the files that fail."""

import argparse
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ERROR = 2  # exit status of a process that raised
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def fuzz_parser(description: str, files: int, seconds: float) -> argparse.ArgumentParser:
    """Options of a script that damages so many files and allows each so many seconds."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--files", type=int, default=files)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=type(seconds), default=seconds)
    parser.add_argument("--keep", type=Path, help="folder for files that fail")
    return parser


def keep_failure(folder: Path | None, path: Path, name: str) -> None:
    """Copy a file that failed into the folder of ``--keep``, if there is one."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        status: of its exit, or minus the signal that ended it.
        printed: to both of its outputs.
        seconds: of wall time.
        megabytes: its largest size, in MiB.
    """

    status: int
    printed: str
    seconds: float
    megabytes: float

    @property
    def death(self) -> str | None:
        """The signal that ended it, in words."""
        if self.status >= 0:
            return None
        return (
            "too long" if self.status == -signal.SIGALRM else f"died by {signal.Signals(-self.status).name}"
        )


def in_a_process(
    work: Callable[[], int], seconds: float, printed: Path, address_space: int | None = None
) -> Ended:
    """Call ``work`` in a forked process, which exits with what it returns.

    Args:
        work: an error that it raises is printed, and the exit status is ``ERROR``.
        seconds: after these the process is ended, wherever it is.
        printed: file for its outputs.
        address_space: in bytes, more than which the process does not get.
    """
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        status = ERROR
        with printed.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            if address_space is not None:
                resource.setrlimit(resource.RLIMIT_AS, (address_space, resource.RLIM_INFINITY))
            status = work()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}".encode(errors="replace"))
        finally:
            os._exit(status)
    _, status, usage = os.wait4(child, 0)
    return Ended(
        os.waitstatus_to_exitcode(status),
        printed.read_text(errors="replace"),
        time.perf_counter() - began,
        usage.ru_maxrss * _RSS_UNIT / 2**20,
    )
