import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def probe(benchmark_named):
    return benchmark_named("probe")


def test_an_instant_goes_to_the_first_kind_of_work_that_any_process_does(probe):
    main = [["imports", 0.0, 4.0, 4.0, True], ["other", 4.0, 10.0, 0.0, True]]
    worker = [["imports", 2.0, 5.0, 3.0, True], ["generation", 5.0, 9.0, 4.0, True]]
    seconds = probe.claim_wall([*main, *worker], 0.0, 10.0)
    assert {kind: value for kind, value in seconds.items() if value} == {
        "generation": 4.0,
        "imports": 5.0,
        "other": 1.0,
    }


def watched(probe, folder: Path, code: str) -> list[dict]:
    """What the probe wrote about a process that runs the code."""
    environment = probe.probed_environment(folder, Path(__file__).parents[2] / "src")
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return probe.read_log(folder)


def test_functions_are_timed_threads_told_apart_and_first_uses_are_no_model_work(probe, tmp_path):
    names = [name for names in probe.FUNCTIONS.values() for name in names]
    code = f"""
import importlib, operator, sys, threading
for name in {names}:
    module, _, path = name.partition(":")
    assert operator.attrgetter(path)(importlib.import_module(module)).__wrapped__, name
from lora_tta.cache.keys import code_version
from lora_tta.ends import end_process
from lora_tta.files import file_sha256
from lora_tta.models.speed.first_use import FirstUses
code_version()
with FirstUses().counted():
    pass
thread = threading.Thread(target=file_sha256, args=(sys.executable,))
thread.start()
thread.join()
end_process(0)  # as a stage ends
"""
    (process,) = watched(probe, tmp_path, code)
    kinds = {(kind, is_main) for kind, *_, is_main in process["slices"]}
    assert {("imports", True), ("hashing", True), ("compiling", True), ("hashing", False)} <= kinds
