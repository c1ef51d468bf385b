"""The processes that work on clips: how many there are, and what they are forked from."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lora_tta.config import ModelParams, load_params
from lora_tta.errors import UserError
from lora_tta.experiment import processes
from lora_tta.experiment.pool import RUNNER_MODULE
from lora_tta.experiment.processes import (
    END_MODULE,
    PROCESS_BYTES,
    call_in_process,
    count_gpus,
    num_processes,
    take_gpu,
)
from lora_tta.search.launch import WORKER_MODULE

# Tells of a process forked from a server that has imported the last of some modules: whether it had all of
# them when it began, and whether it can't use CUDA.
FORKED_BY_THE_SERVER = """
import sys
had_modules = set(sys.argv[1:]) <= set(sys.modules)

def found():
    import torch
    return had_modules, torch._C._cuda_isInBadFork()

if __name__ == "__main__":
    from lora_tta.experiment.processes import call_in_process
    print(had_modules, *call_in_process(sys.argv[-1], found))
"""
# The same of a process forked from one that has imported the module with CUDA's first use in it.
FORKED_AFTER_A_FIRST_USE = """
import contextlib, importlib, os, sys
from lora_tta import imports

imports.without_first_use_of_cuda = contextlib.nullcontext
importlib.import_module(sys.argv[1])
import torch

if os.fork() == 0:
    print(True, torch._C._cuda_isInBadFork(), flush=True)
    os._exit(0)
os.wait()
os._exit(0)  # without taking apart what was imported
"""


def run(script: str, folder: Path, *modules: str) -> list[str]:
    """The words that a script prints; it is a file, since the processes of a server import it."""
    file = folder / "script.py"
    file.write_text(script)
    done = subprocess.run([sys.executable, file, *modules], check=True, capture_output=True, text=True)
    return done.stdout.split()


@pytest.mark.usefixtures("forkserver_with_model")
def test_a_function_is_called_in_another_process():
    assert call_in_process(RUNNER_MODULE, os.getpid) != os.getpid()


@pytest.mark.usefixtures("forkserver_with_model")
def test_errors_come_back_from_the_other_process():
    with pytest.raises(UserError, match=r"missing\.yaml not found"):
        call_in_process(RUNNER_MODULE, load_params, Path("missing.yaml"))


@pytest.mark.usefixtures("forkserver_with_model")
def test_what_a_signal_raises_ends_the_other_process_at_once():
    def leave(*_):
        sys.exit(3)

    before = signal.signal(signal.SIGALRM, leave)
    signal.setitimer(signal.ITIMER_REAL, 1)
    began = time.monotonic()
    try:
        with pytest.raises(SystemExit):
            call_in_process(RUNNER_MODULE, time.sleep, 600)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 60
    assert not multiprocessing.active_children()


@pytest.mark.slow(8)
def test_forked_processes_have_their_imports_and_can_use_cuda(tmp_path):
    # The module of a study's workers imports that of the other stages' too.
    had_modules_here, had_modules, is_broken = run(
        FORKED_BY_THE_SERVER, tmp_path, RUNNER_MODULE, WORKER_MODULE
    )
    assert (had_modules_here, had_modules) == ("False", "True")
    assert is_broken == "False"


@pytest.mark.slow(8)
@pytest.mark.skipif(not hasattr(torch._C, "_cuda_getDeviceCount"), reason="this torch has no CUDA")
def test_without_care_their_imports_would_break_cuda(tmp_path):
    assert run(FORKED_AFTER_A_FIRST_USE, tmp_path, RUNNER_MODULE) == ["True", "True"]


ENDING = """
import atexit, os, sys
from importlib import import_module
import_module(sys.argv[1])
atexit.register(print, "exit handler", flush=True)

class Imported:
    def __del__(self):
        print("taken apart")

imported = Imported()
if os.fork() == 0:
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def test_a_server_of_forks_ends_at_once_with_its_handlers_run_and_its_forks_as_they_end(tmp_path):
    # The fork's handler, its end, its status, and the server's handler.
    said = ["exit", "handler", "taken", "apart", "3", "exit", "handler"]
    assert run(ENDING, tmp_path, END_MODULE) == said


@pytest.fixture
def model(params) -> ModelParams:
    return params.model.model_copy(update={"device": "auto", "num_threads": 2})


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with this many cores, this much memory and these GPUs, None without a driver."""

    def build(cores: int = 8, memory: int = 10**12, gpus: int | None = None) -> None:
        def counted(preload, function):
            assert (preload, function) == (RUNNER_MODULE, count_gpus)
            return gpus

        driver = tmp_path / "driver"
        if gpus is not None:
            driver.touch()
        monkeypatch.setattr(processes, "DRIVERS", (str(tmp_path / "no_driver"), str(driver)))
        monkeypatch.setattr(processes, "call_in_process", counted)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
        monkeypatch.setattr(
            processes.psutil, "virtual_memory", lambda: SimpleNamespace(available=memory), raising=False
        )

    return build


@pytest.mark.parametrize(
    ("cores", "expected"),
    [(8, 4), (9, 4), (2, 1), (1, 1)],  # of 2 threads each
)
def test_without_a_gpu_as_many_work_as_the_cores_allow(machine, model, cores, expected):
    machine(cores=cores)
    assert num_processes("auto", model, RUNNER_MODULE) == expected


@pytest.mark.parametrize(("memory", "expected"), [(3.5, 3), (1, 1), (0.5, 1), (100, 4)])
def test_without_a_gpu_no_more_work_than_the_memory_allows_and_at_least_one(machine, model, memory, expected):
    machine(cores=8, memory=int(memory * PROCESS_BYTES))
    assert num_processes("auto", model, RUNNER_MODULE) == expected


@pytest.mark.parametrize("gpus", [None, 0])
def test_without_a_gpu_a_number_is_taken_as_it_is(machine, model, gpus):
    machine(cores=2, gpus=gpus)
    assert num_processes(7, model, RUNNER_MODULE) == 7


def test_a_driver_without_a_gpu_is_no_gpu(machine, model):
    machine(cores=6, gpus=0)
    assert num_processes("auto", model, RUNNER_MODULE) == 3


@pytest.mark.parametrize(("asked", "expected"), [("auto", 4), (4, 4), (3, 3), (1, 1)])
def test_each_gpu_has_a_process(machine, model, asked, expected):
    machine(cores=2, gpus=4)
    assert num_processes(asked, model, RUNNER_MODULE) == expected


def test_two_on_one_gpu_are_refused_in_a_line_that_says_what_to_set(machine, model):
    machine(gpus=4)
    with pytest.raises(UserError, match=r"workers\.processes is 5.*GPUs: 4.*auto, or to 4 or less") as error:
        num_processes(5, model, RUNNER_MODULE)
    assert "\n" not in str(error.value)


def test_gpus_do_not_count_where_the_model_is_to_be_on_the_cpu(machine, model):
    machine(cores=8, gpus=2)
    on_cpu = model.model_copy(update={"device": "cpu"})
    assert num_processes("auto", on_cpu, RUNNER_MODULE) == 4
    assert num_processes(5, on_cpu, RUNNER_MODULE) == 5


@pytest.mark.parametrize("asked", [1, "auto"])
def test_for_one_process_and_without_a_driver_no_process_is_started_to_count(
    machine, model, asked, monkeypatch
):
    machine(gpus=4 if asked == 1 else None)
    monkeypatch.setattr(processes, "call_in_process", lambda *_: pytest.fail("a process was started"))
    assert num_processes(asked, model, RUNNER_MODULE) >= 1


def test_gpus_are_those_that_pytorch_may_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert count_gpus() == 3


@pytest.mark.parametrize(
    ("visible", "index", "left"),
    [
        (None, 2, "2"),
        ("1,3", 1, "3"),
        ("GPU-ab678944,GPU-d9e09bd7", 0, "GPU-ab678944"),
        ("5", 1, "5"),
        ("", 0, ""),
    ],
)
def test_a_process_sees_the_gpu_of_its_number_alone(monkeypatch, visible, index, left):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    take_gpu(index)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left
