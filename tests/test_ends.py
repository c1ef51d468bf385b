"""Processes that end with their parent, leave Ctrl-C to it, and end at once when their work is done."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

PARENT = """
import multiprocessing, os, signal, time
from lora_tta.ends import follow_parent, without_ctrl_c

def work():
    # Also before it follows, as when it imports.
    os.kill(os.getpid(), signal.SIGINT)
    follow_parent()
    print(multiprocessing.current_process().pid, flush=True)
    time.sleep(300)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work)
    with without_ctrl_c():
        process.start()
    process.join()
"""


def heed_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def processes(tmp_path):
    """A parent and its child, once that works."""
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Tests that run in the background or under nohup ignore some, and children inherit that.
        preexec_fn=heed_signals,
    )
    child = psutil.Process(int(parent.stdout.readline()))
    yield parent, child
    for process in (parent, child):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    parent.wait()


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_process_ends_with_its_parent(processes, number):
    parent, child = processes
    parent.send_signal(number)
    parent.wait()
    began = time.monotonic()
    while lives(child):
        assert time.monotonic() - began < 10
        time.sleep(0.02)


def test_ctrl_c_does_not_reach_it(processes):
    parent, child = processes
    os.kill(child.pid, signal.SIGINT)
    time.sleep(0.3)
    assert lives(child)
    assert parent.poll() is None


ENDING = """
import atexit, threading, time
from lora_tta.ends import end_process

class Imported:
    def __del__(self):
        print("taken apart")

imported = Imported()
imported.itself = imported
atexit.register(print, "exit handler")

def work():
    time.sleep(0.2)
    print("thread")

def main():
    threading.Thread(target=work).start()
    print("main", end=" ")

main()
end_process(3)
"""


def test_threads_end_and_handlers_run_but_nothing_is_taken_apart():
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n") == ["main thread", "exit handler", ""]
    assert (done.returncode, done.stderr) == (3, "")
