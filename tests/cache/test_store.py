"""The store of finished work, with real processes where processes matter."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lora_tta.cache.store import CONTENT_NAME, KEY_NAME, ContentCache


@pytest.fixture
def cache(tmp_path):
    return ContentCache(tmp_path, max_bytes=10_000)


def writing(content):
    return lambda folder: (folder / "value").write_text(content)


def age(entry, seconds):
    past = time.time() - seconds
    os.utime(entry / CONTENT_NAME, (past, past))


def start(code: str, folder: Path) -> subprocess.Popen:
    """A process with a cache in the folder, that has printed its first line."""
    head = "import sys, time; from pathlib import Path; from lora_tta.cache.store import ContentCache\n"
    head += "cache = ContentCache(Path(sys.argv[1]), 10_000)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + code, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


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


def test_an_entry_that_is_a_copy_of_another_is_undamaged(cache, tmp_path, caplog):
    first = cache.fetch("kind", {"a": 1}, writing("x"))
    cache.fetch("kind", {"a": 2}, lambda folder: shutil.copytree(first, folder, dirs_exist_ok=True))
    another_process = ContentCache(tmp_path, max_bytes=10_000)
    assert (another_process.find("kind", {"a": 2}) / "value").read_text() == "x"
    assert not caplog.messages


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


def test_the_least_recently_used_entries_go_first(cache):
    entries = [cache.fetch("kind", {"n": n}, writing("x" * 3000)) for n in range(3)]
    for entry, seconds in zip(entries, (9000, 8000, 7000), strict=True):
        age(entry, seconds)
    cache.find("kind", {"n": 0})
    cache.fetch("kind", {"n": 3}, writing("x" * 3000))
    assert [cache.find("kind", {"n": n}) is not None for n in range(4)] == [True, False, True, True]


def test_leased_entries_stay_however_full_the_cache_is_and_go_after_the_block(cache):
    with cache.leasing():
        entries = [cache.fetch("kind", {"n": n}, writing("x" * 3000)) for n in range(5)]
        assert all(entry.exists() for entry in entries)
        assert cache.evict(0) == 0
        (usage,) = cache.usage()
        assert (usage.entries, usage.leased) == (5, 5)
    assert cache.evict(0) == 5


def test_a_lease_holds_against_other_processes_and_ends_with_its_own(cache, tmp_path):
    entry = cache.fetch("kind", {"n": 1}, writing("x"))
    holder = start(
        "with cache.leasing():\n    cache.find('kind', {'n': 1}); print('ready', flush=True); time.sleep(60)",
        tmp_path,
    )
    assert cache.evict(0) == 0
    assert cache.usage()[0].leased == 1
    kill(holder)
    assert cache.usage()[0].leased == 0
    assert cache.evict(0) == 1
    assert not entry.exists()
    assert not list((tmp_path / "leases").iterdir())


def test_a_lock_may_be_released_by_another_thread_where_that_is_asked_for(cache):
    lock = cache.lock({"n": 1}, thread_local=False)
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    # Without a timeout: filelock 3.24 to 4.0 take this for a deadlock.
    with cache.lock({"n": 1}):
        pass


def test_the_leftovers_of_a_killed_computation_are_counted_and_removed(cache, tmp_path):
    code = (
        "def compute(folder):\n"
        "    (folder / 'half').write_text('x' * 5000); print('ready', flush=True); time.sleep(60)\n"
        "cache.fetch('kind', {'n': 1}, compute)"
    )
    victim = start(code, tmp_path)
    assert cache.leftovers().entries == 0  # it is alive
    kill(victim)
    leftovers = cache.leftovers()
    assert (leftovers.entries, leftovers.bytes) == (1, 5000)
    cache.fetch("kind", {"n": 2}, writing("x"))
    assert cache.leftovers().entries == 0
    assert not list(tmp_path.rglob("half"))
    assert (cache.fetch("kind", {"n": 1}, writing("whole")) / "value").read_text() == "whole"


def change(entry: Path) -> None:
    (entry / "value").write_text("edited!")


def truncate(entry: Path) -> None:
    os.truncate(entry / "value", 1)


def lose(entry: Path) -> None:
    (entry / "value").unlink()


def spoil_key(entry: Path) -> None:
    (entry / KEY_NAME).write_text("{")


def spoil_hashes(entry: Path) -> None:
    (entry / CONTENT_NAME).write_text("{")


def lose_hashes(entry: Path) -> None:
    (entry / CONTENT_NAME).unlink()


@pytest.mark.parametrize("damage", [change, truncate, lose, spoil_key, spoil_hashes, lose_hashes])
@pytest.mark.parametrize("same_process", [True, False])
def test_a_damaged_entry_is_computed_again_with_one_line(cache, tmp_path, caplog, damage, same_process):
    entry = cache.fetch("kind", {"n": 1}, writing("written"))
    damage(entry)
    reader = cache if same_process else ContentCache(tmp_path, 10_000)
    assert (reader.fetch("kind", {"n": 1}, writing("again")) / "value").read_text() == "again"
    (line,) = caplog.messages
    assert "is damaged" in line
    assert "computed again" in line


def test_an_undamaged_entry_is_not_read_again_by_the_same_process(cache, monkeypatch):
    cache.fetch("kind", {"n": 1}, writing("x"))
    reader = ContentCache(cache.root, 10_000)
    assert reader.find("kind", {"n": 1})
    monkeypatch.setattr("lora_tta.cache.store.file_sha256", lambda path: pytest.fail(f"{path} was read"))
    assert reader.find("kind", {"n": 1})


BUSY = """
import json, random
print("ready", flush=True)
random.seed(int(sys.argv[2]) if len(sys.argv) > 2 else None)
until = time.monotonic() + 4
computed = 0
while time.monotonic() < until:
    number = random.randrange(12)
    text = str(number) * 2500
    with cache.leasing():
        entry = cache.fetch("kind", {"n": number}, lambda folder: (folder / "value").write_text(text))
        for _ in range(3):
            assert (entry / "value").read_text() == text
    if random.random() < 0.3:
        cache.evict(5000)
    cache.usage(), cache.leftovers()
    computed += 1
print(computed, flush=True)
"""


@pytest.mark.slow(10)
def test_processes_add_find_and_evict_at_once(tmp_path):
    processes = [start(BUSY, tmp_path) for _ in range(4)]
    rounds = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert min(rounds) > 10


def test_a_key_is_kept_readable_beside_the_files(cache):
    entry = cache.fetch("kind", {"b": [1, 2], "a": "x"}, writing("x"))
    assert json.loads((entry / KEY_NAME).read_text()) == {"a": "x", "b": [1, 2]}
