import os
import threading
import time

import pytest

from lora_tta.cache.store import KEY_NAME, ContentCache


@pytest.fixture
def cache(tmp_path):
    return ContentCache(tmp_path, max_bytes=10_000)


def writing(content):
    return lambda folder: (folder / "value").write_text(content)


def test_an_entry_is_computed_once(cache):
    first = cache.fetch("kind", {"a": 1, "b": 2}, writing("one"))
    second = cache.fetch("kind", {"b": 2, "a": 1}, writing("two"))
    assert first == second
    assert (second / "value").read_text() == "one"


def test_another_key_or_kind_is_another_entry(cache):
    entries = {
        cache.fetch("kind", {"a": 1}, writing("x")),
        cache.fetch("kind", {"a": 2}, writing("x")),
        cache.fetch("other", {"a": 1}, writing("x")),
    }
    assert len(entries) == 3


def test_a_failed_computation_leaves_nothing(cache, tmp_path):
    def fail(folder):
        (folder / "half").write_text("written")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        cache.fetch("kind", {"a": 1}, fail)
    assert cache.find("kind", {"a": 1}) is None
    assert not list(tmp_path.rglob("half"))


def test_two_that_want_the_same_key_share_one_computation(tmp_path):
    calls = []

    def slow(folder):
        calls.append(threading.get_ident())
        time.sleep(0.3)
        (folder / "value").write_text("once")

    workers = [
        threading.Thread(target=ContentCache(tmp_path, 10_000).fetch, args=("kind", {"a": 1}, slow))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(calls) == 1


def age(entry, seconds):
    past = time.time() - seconds
    os.utime(entry / KEY_NAME, (past, past))


def test_the_least_recently_used_entries_go_first(cache):
    entries = [cache.fetch("kind", {"n": n}, writing("x" * 3000)) for n in range(3)]
    for entry, seconds in zip(entries, (9000, 8000, 7000), strict=True):
        age(entry, seconds)
    cache.find("kind", {"n": 0})
    cache.fetch("kind", {"n": 3}, writing("x" * 3000))
    assert [cache.find("kind", {"n": n}) is not None for n in range(4)] == [True, False, True, True]


def test_entries_in_use_are_never_evicted(cache):
    for n in range(5):
        cache.fetch("kind", {"n": n}, writing("x" * 3000))
    assert all(cache.find("kind", {"n": n}) for n in range(5))
