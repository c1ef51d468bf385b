"""Commands that start at once: forks of a server that has imported the large libraries.

A small command of the pipeline takes most of its time to import torch, diffusers and MLflow. All commands of
a run of the tests share these imports, and Python's seed of hashes. Each has a process, a folder, an
environment, streams and a status of its own, and imports ``lora_tta`` from the code under test.
"""

import ast
import atexit
import importlib
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

SOURCE = Path(__file__).parents[2] / "src"
# What DVC's commands import when they run.
OF_DVC = (
    "dvc.cli.parser",
    "dvc.data_cloud",
    "dvc.repo.experiments.queue.celery",
    "dvc.repo.graph",
    "dvc.repo.index",
    "dvc.repo.plots",
    "dvc.repo.stage",
    "dulwich.porcelain",
)
CLIENT = """#!{python} -IS
import os, signal, socket, sys
arguments = {before} + sys.argv[1:]
is_module = arguments[:1] == ["-m"] and arguments[1].split(".")[0] in ("lora_tta", "dvc")
if not is_module and arguments[:1] != ["-c"] and not "".join(arguments[:1]).endswith(".py"):
    os.execv({python!r}, [{python!r}, *arguments])
words = [os.getcwd(), *(f"{{name}}={{value}}" for name, value in os.environ.items()), "", *arguments]
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"."], [0, 1, 2])
server.sendall("\\0".join(words).encode(errors="surrogateescape"))
server.shutdown(socket.SHUT_WR)
answer = server.makefile()
process = int(answer.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(process, number))
status = int(answer.readline())
if status < 0:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@cache
def warm_programs() -> Path:
    """A folder with ``python``, ``lora-tta`` and ``dvc``, for the front of PATH; one server for all tests.

    Python's modules of the package and of DVC, code (``-c``) and files start warm; all else starts as ever.
    """
    owner = psutil.Process(os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid())
    # Not with the tests' files: the system takes no path of 108 bytes or more for a socket. A killed server
    # leaves its folder behind, and an owner may have the number of an earlier one.
    folder = Path(tempfile.gettempdir()) / f"warm-{owner.pid}-{owner.create_time():.2f}"
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        made, address = Path(name) / "made", folder / "server"
        made.mkdir()
        for program, before in (
            ("python", []),
            ("lora-tta", ["-m", "lora_tta.cli.main"]),
            ("dvc", ["-m", "dvc"]),
        ):
            text = CLIENT.format(python=sys.executable, before=before, address=str(address))
            (made / program).write_text(text)
            (made / program).chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(made / address.name))
            listener.listen(100)
            try:
                made.rename(folder)
            except OSError:  # another process of this run was faster
                return folder
            command = [sys.executable, __file__, str(listener.fileno()), str(owner.pid), str(folder)]
            subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()])
    return folder


def warm_python() -> str:
    """The program ``python`` among them."""
    return str(warm_programs() / "python")


def import_libraries() -> None:
    """Import what DVC and the package import of others, as the package's own servers of forks do."""
    from lora_tta.imports import large_imports, without_first_use_of_cuda

    with large_imports(), without_first_use_of_cuda():
        for name in (*imported_names(), *OF_DVC):
            with suppress(ImportError):
                importlib.import_module(name)
    # The package itself comes from the code under test.
    for name in [name for name in sys.modules if name.split(".")[0] == "lora_tta"]:
        del sys.modules[name]


def imported_names() -> Iterator[str]:
    """What may be a module among all that the package imports of others."""
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            yield from (name for name in names if name.split(".")[0] != "lora_tta")


def leave_imports_alone() -> None:
    """Ends of forks take apart nothing that the server has imported, which would copy its memory."""
    import torch

    for finalizer in weakref.finalize._registry:
        finalizer.atexit = False
    atexit.unregister(torch._dynamo.utils.dump_compile_times)


def serve(listener: socket.socket, owner: int, folder: Path) -> None:
    """Fork a process for each connection, until the owner's end; return in the forked processes.

    A connection gets the number of its process, and then its status.
    """
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    connections: dict[int, socket.socket] = {}
    while psutil.pid_exists(owner):
        ready = select.select([listener, woken], [], [], 1)[0]
        if listener in ready:
            connection, _ = listener.accept()
            process = os.fork()
            if not process:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for each in (listener, *connections.values()):
                    each.close()
                os.close(woken)
                os.close(wakes)
                return run_command(connection)
            connections[process] = connection
            tell(connection, process)
        if woken in ready:
            os.read(woken, 100)
            for process in list(connections):
                if (ended := os.waitpid(process, os.WNOHANG))[0]:
                    tell(connections[process], os.waitstatus_to_exitcode(ended[1]))
                    connections.pop(process).close()
    shutil.rmtree(folder)
    os._exit(0)


def tell(connection: socket.socket, number: int) -> None:
    """Send a number to a client, which may be gone."""
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(f"{number}\n".encode())


def run_command(connection: socket.socket) -> None:
    """Run a command in a forked process."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    words = connection.makefile("rb").read().decode(errors="surrogateescape").split("\0")
    end = words.index("")
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(words[0])
    os.environ.clear()
    os.environ.update(word.split("=", 1) for word in words[1:end])
    status: object = 1
    try:
        run_python(words[end + 1 :])
        status = 0
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        traceback.print_exc()
    # As the package's own processes end: Python would take seconds to take apart what was imported.
    from lora_tta.ends import end_process

    if isinstance(status, str):
        print(status, file=sys.stderr)
    end_process(status if isinstance(status, int) else 1)


def run_python(arguments: list[str]) -> None:
    """What Python does with its arguments, of which there is a module, code or a file."""
    places = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    first, *rest = arguments
    is_file = first not in ("-m", "-c")
    sys.path[:0] = [str(Path(first).resolve().parent) if is_file else "", *places]
    sys.argv = arguments if is_file else [first, *rest[1:]]
    if is_file:
        runpy.run_path(first, run_name="__main__")
    elif first == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})


def main() -> None:
    """The server's process."""
    del sys.path[0]  # the folder of this file, where other programs look in theirs
    import_libraries()
    leave_imports_alone()
    listener, owner, folder = sys.argv[1:]
    serve(socket.socket(fileno=int(listener)), int(owner), Path(folder))


if __name__ == "__main__":
    main()
