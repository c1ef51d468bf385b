import gc
import subprocess
import sys

import pytest

from lora_tta.imports import without_garbage_collection


def test_nothing_is_collected_meanwhile_and_imports_never():
    before = gc.get_freeze_count()
    with without_garbage_collection():
        assert not gc.isenabled()
        imported = [[] for _ in range(1000)]
        with without_garbage_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
        assert gc.get_freeze_count() == before
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(imported)


def test_collection_goes_on_after_an_import_that_fails():
    with pytest.raises(ImportError), without_garbage_collection():
        import lora_tta.no_such_module  # noqa: F401
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off():
    gc.disable()
    try:
        with without_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_last_collection_leaves_nothing_out():
    code = """
import atexit, gc
# The first to be registered is the last to run.
atexit.register(lambda: print(gc.get_freeze_count()))
from lora_tta.imports import without_garbage_collection
with without_garbage_collection():
    import json
print(gc.get_freeze_count() > 0)
"""
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.split() == ["True", "0"]
