import gc
import os
import signal
import subprocess
import sys

import pytest
import torch

from lora_tta.imports import large_imports, without_first_use_of_cuda

with_cuda = pytest.mark.skipif(not hasattr(torch._C, "_cuda_getDeviceCount"), reason="this torch has no CUDA")


def test_nothing_is_collected_meanwhile_and_imports_never():
    before = gc.get_freeze_count()
    with large_imports():
        assert not gc.isenabled()
        imported = [[] for _ in range(1000)]
        with large_imports():
            assert not gc.isenabled()
        assert not gc.isenabled()
        assert gc.get_freeze_count() == before
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(imported)


def test_collection_goes_on_after_an_import_that_fails():
    with pytest.raises(ImportError), large_imports():
        import lora_tta.no_such_module  # noqa: F401
    assert gc.isenabled()


def test_ctrl_c_counts_after_the_imports():
    """Inside, torch's C++ would abort the process at the exception."""
    imported = []

    def interrupted_imports() -> None:
        with large_imports():
            os.kill(os.getpid(), signal.SIGINT)
            imported.append(True)

    # Whoever starts the tests in the background has them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted_imports()
    finally:
        signal.signal(signal.SIGINT, before)
    assert imported


def test_it_stays_off_where_it_was_off():
    gc.disable()
    try:
        with large_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_last_collection_leaves_nothing_out():
    code = """
import atexit, gc
# The first to be registered is the last to run.
atexit.register(lambda: print(gc.get_freeze_count()))
from lora_tta.imports import large_imports
with large_imports():
    import json
print(gc.get_freeze_count() > 0)
"""
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.split() == ["True", "0"]


@with_cuda
@pytest.mark.parametrize(("by_nvml", "counted"), [(3, 3), (0, 0), (-1, 0)])
def test_gpus_are_counted_without_cuda_meanwhile(monkeypatch, by_nvml, counted):
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: by_nvml)
    of_cuda = torch._C._cuda_getDeviceCount
    with without_first_use_of_cuda():
        assert torch._C._cuda_getDeviceCount() == counted
    assert torch._C._cuda_getDeviceCount is of_cuda


@with_cuda
def test_cuda_counts_again_after_an_import_that_fails():
    of_cuda = torch._C._cuda_getDeviceCount
    with pytest.raises(ImportError), without_first_use_of_cuda():
        import lora_tta.no_such_module  # noqa: F401
    assert torch._C._cuda_getDeviceCount is of_cuda


def test_a_torch_without_cuda_is_left_alone(monkeypatch):
    monkeypatch.delattr(torch._C, "_cuda_getDeviceCount", raising=False)
    with without_first_use_of_cuda():
        assert not hasattr(torch._C, "_cuda_getDeviceCount")
