import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="package")
def benchmark_named():
    """Imports a benchmark by its name; benchmarks import each other as scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield import_module
        for name in [path.stem for path in BENCHMARKS.glob("*.py")]:
            sys.modules.pop(name, None)
