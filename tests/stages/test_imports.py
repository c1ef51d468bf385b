"""What a command imports before its workers have begun to import torch, which takes as long as ten clips."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "cli.main",
        "cli.summary",
        *(f"stages.{name}" for name in ("preprocess", "baseline", "search", "adapt")),
    ],
)
def test_what_waits_for_others_imports_nothing_heavy(module):
    heavy = {"torch", "mlflow", "optuna", "pandas", "scipy"}
    code = f"import sys, lora_tta.{module}; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"


def test_evaluate_imports_no_torch():
    code = "import sys, lora_tta.stages.evaluate; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
