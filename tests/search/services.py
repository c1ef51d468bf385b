"""Real services for a test: SLURM, PostgreSQL and MLflow servers, in a folder of their own.

Each context manager skips the test, with the reason, where its programs are not installed or do not start.
"""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import pytest

START_SECONDS = 30


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def find_program(name: str) -> str:
    """Path of a program; system daemons are looked up off the usual PATH as well."""
    folders = [os.environ["PATH"], "/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    path = shutil.which(name, path=os.pathsep.join(folders))
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def wait_for(ready: Callable[[], bool], name: str, log: Path, seconds: float = START_SECONDS) -> None:
    """Wait until a service answers; skip with the end of its log if it does not."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-500:] if log.exists() else "no log"
            pytest.skip(f"{name} does not start here: {tail}")
        time.sleep(0.2)


@contextmanager
def daemon(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Iterator[None]:
    """A process that runs in the foreground while the ``with`` lasts."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def socket_folder() -> Iterator[Path]:
    """A folder with a short name: the system takes no path of 108 bytes or more for a socket."""
    with TemporaryDirectory(prefix="lora-") as name:
        yield Path(name)


@contextmanager
def slurm_cluster(folder: Path, num_nodes: int = 1) -> Iterator[None]:
    """A SLURM controller with nodes that all are this machine; ``SLURM_CONF`` points at it."""
    if os.geteuid() != 0:
        pytest.skip("a SLURM node daemon needs root")
    munged, controller, node = (find_program(name) for name in ("munged", "slurmctld", "slurmd"))
    host, cores = socket.gethostname().split(".")[0], os.cpu_count()
    key = folder / "munge.key"
    folder.mkdir()
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    names = [f"node{number}" for number in range(num_nodes)]
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs={cores}"
        for name in names
    )
    environment = os.environ | {"SLURM_CONF": str(configuration)}

    def nodes_are_idle() -> bool:
        listed = subprocess.run(
            ["sinfo", "-h", "-o", "%t %D"], env=environment, capture_output=True, text=True, check=False
        )
        return listed.stdout.split() == ["idle", str(num_nodes)]

    with socket_folder() as sockets, ExitStack() as services, pytest.MonkeyPatch.context() as patch:
        munge_socket = sockets / "munge"
        configuration.write_text(
            f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={getpass.getuser()}
SlurmctldPort={free_port()}
AuthType=auth/munge
AuthInfo=socket={munge_socket},cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={sockets}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
KillWait=2
JobRequeue=1
{nodes}
PartitionName=main Nodes={",".join(names)} Default=YES LLN=YES OverSubscribe=FORCE:8 MaxTime=INFINITE State=UP
"""
        )
        munge = [munged, "--foreground", "--force", f"--key-file={key}", f"--socket={munge_socket}"]
        munge += [
            f"--log-file={folder}/munge.log",
            f"--pid-file={folder}/munge.pid",
            f"--seed-file={folder}/seed",
        ]
        services.enter_context(daemon(munge, folder / "munge.out"))
        wait_for(munge_socket.exists, "munged", folder / "munge.log")
        services.enter_context(daemon([controller, "-D"], folder / "slurmctld.out", environment))
        for name in names:
            log = folder / f"slurmd.{name}.out"
            services.enter_context(daemon([node, "-D", "-N", name], log, environment))
        wait_for(nodes_are_idle, "SLURM", folder / "slurmctld.out")
        patch.setenv("SLURM_CONF", str(configuration))
        yield


@contextmanager
def postgresql_server(folder: Path) -> Iterator[str]:
    """A PostgreSQL server with an empty database; yields its URL."""
    initdb, server, createdb = (find_program(name) for name in ("initdb", "postgres", "createdb"))
    folder.mkdir()
    as_user: list[str] = []
    if os.geteuid() == 0:
        # The server refuses to run as root; its package comes with a user for it.
        as_user = [find_program("setpriv"), "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres", "postgres")
        for parent in folder.parents:
            if parent.owner() == getpass.getuser() and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
    port, log = free_port(), folder.with_suffix(".log")
    made = subprocess.run(
        [*as_user, initdb, "-D", folder / "data", "-A", "trust", "-U", "test"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    if made.returncode:
        pytest.skip(f"initdb does not work here: {made.stderr[-300:]}")
    command = [*as_user, server, "-D", str(folder / "data"), "-p", str(port)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    with daemon(command, log):
        address = ["-h", "127.0.0.1", "-p", str(port), "-U", "test"]

        def created() -> bool:
            done = subprocess.run([createdb, *address, "study"], capture_output=True, check=False)
            return done.returncode == 0

        wait_for(created, "PostgreSQL", log)
        yield f"postgresql+psycopg://test@127.0.0.1:{port}/study"


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """A tracking server that keeps runs and artifacts in ``folder``; yields its URL.

    A later server in the same folder has what an earlier one had.
    """
    folder.mkdir(exist_ok=True)
    # Its runner of jobs, which nothing here asks for, would take as long to start again.
    command = ["env", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"]
    command += [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    address = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        try:
            with urlopen(f"{address}/health", timeout=1):
                return True
        except OSError:
            return False

    with daemon(command, folder / "server.log"):
        # It imports for half a minute where others use the machine too.
        wait_for(is_up, "MLflow", folder / "server.log", seconds=150)
        yield address
