"""Whether locks hold in a folder: between the processes of this machine, and between machines."""

import fcntl
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

from lora_tta.errors import UserError

MOUNTS = Path("/proc/mounts")
# Takes the lock of a file, unless another process holds it.
TRY = """
import fcntl, sys
with open(sys.argv[1]) as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(3)
"""
HELD = 3
# File systems whose locks another machine does not see, whatever their options.
ON_ONE_MACHINE = {"fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.goofys", "9p", "vboxsf"}
# Options with which those of the others stay on the machine (nfs(5), mount.lustre(8), mount.cifs(8)).
LOCAL_OPTIONS = {
    "nfs": {"nolock", "local_lock=all", "local_lock=flock"},
    "nfs4": {"nolock", "local_lock=all", "local_lock=flock"},
    "lustre": {"localflock", "noflock"},
    "cifs": {"nobrl"},
    "smb3": {"nobrl"},
}


def check_locks(folder: Path, several_machines: bool = False) -> None:
    """Have another process try a lock that this one holds, and look how the folder is mounted.

    Where locks hold on this machine alone, a line says so, for other machines may use the folder too.

    Args:
        folder: of the cache, which is made if it is missing.
        several_machines: whether other machines will use it now.

    Raises:
        UserError: two processes would not exclude each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=folder, prefix=".lock-check-") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _refused(folder, f"takes no locks ({error.strerror})") from None
        if not excludes_others(Path(file.name)):
            raise _refused(folder, "gives two processes the same lock")
    if (mounted := mounted_for_one_machine(folder)) is None:
        return
    if several_machines:
        raise _refused(folder, f"is mounted so that machines do not see each other's locks ({mounted})")
    print(
        f"cache.path {folder} is mounted so that machines do not see each other's locks ({mounted}): use it "
        "from one machine at a time",
        file=sys.stderr,
    )


def excludes_others(file: Path) -> bool:
    """Whether another process finds the lock of a file held."""
    # Without site packages it takes some milliseconds.
    command = [sys.executable, "-I", "-S", "-c", TRY, str(file)]
    return subprocess.run(command, capture_output=True, check=False).returncode == HELD


def mounted_for_one_machine(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """How a folder is mounted, if locks in it hold on one machine alone; None if they do not."""
    try:
        lines = [line.split()[1:4] for line in mounts.read_text().splitlines()]
    except OSError:  # as on macOS
        return None
    place = folder.resolve()
    fitting = [line for line in lines if place.is_relative_to(line[0].replace("\\040", " "))]
    if not fitting:
        return None
    # Of two mounts in one place, the later one covers the first.
    _, kind, options = max(enumerate(fitting), key=lambda item: (len(item[1][0]), item[0]))[1]
    found = LOCAL_OPTIONS.get(kind, set()) & set(options.split(","))
    return ", ".join((kind, *sorted(found))) if found or kind in ON_ONE_MACHINE else None


def _refused(folder: Path, reason: str) -> UserError:
    return UserError(
        f"cache.path {folder} {reason}: set it to a file system with locks (nfs with lock, "
        "lustre with flock), or to a local disk and use one machine"
    )
