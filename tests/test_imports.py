import gc

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
