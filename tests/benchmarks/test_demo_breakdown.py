import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "demo_breakdown.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = spec_from_file_location("demo_breakdown", BENCHMARK)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_instant_is_model_time_if_any_process_computes_the_model(benchmark):
    main = [["imports", 0.0, 4.0, 4.0], ["other", 4.0, 10.0, 0.0]]
    worker = [["imports", 2.0, 5.0, 3.0], ["model", 5.0, 9.0, 4.0]]
    seconds = benchmark.claim_wall([*main, *worker], 0.0, 10.0)
    assert {kind: value for kind, value in seconds.items() if value} == {
        "model": 4.0,
        "imports": 5.0,
        "other": 1.0,
    }


def test_what_no_stage_took_is_dvcs(benchmark):
    processes = [
        {"stage": "dvc", "main": False, "slices": [["imports", 0.0, 1.0, 1.0], ["other", 1.0, 12.0, 0.5]]},
        {"stage": "encode", "main": True, "slices": [["imports", 2.0, 5.0, 3.0], ["model", 5.0, 11.0, 6.0]]},
    ]
    rows = benchmark.break_down(processes, 0.0, 12.0)
    assert (rows["encode"]["wall"], rows["encode"]["CPU"], rows["encode"]["model"]) == (9.0, 9.0, 6.0)
    assert (rows["DVC"]["wall"], rows["DVC"]["CPU"]) == (3.0, 1.5)
    assert rows["total"]["wall"] == 12.0


def test_the_functions_it_watches_are_there_and_are_timed(benchmark, tmp_path):
    names = [name for names in benchmark.FUNCTIONS.values() for name in names]
    code = f"""
import importlib, operator
for name in {names}:
    module, _, path = name.partition(":")
    assert operator.attrgetter(path)(importlib.import_module(module)).__wrapped__, name
from lora_tta.cache.keys import code_version
code_version()
"""
    (tmp_path / "log").mkdir()
    (tmp_path / "sitecustomize.py").write_bytes(BENCHMARK.read_bytes())
    environment = {"PYTHONPATH": str(tmp_path), benchmark.LOG_VARIABLE: str(tmp_path / "log")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    (log,) = (tmp_path / "log").iterdir()
    assert {"imports", "hashes"} <= {kind for kind, *_ in json.loads(log.read_text())["slices"]}
