"""Blocks of leases in several threads of one process."""

import threading

import pytest

from lora_tta.cache.leases import Leases

TIMEOUT = 60  # seconds, which only a test that fails waits


@pytest.fixture
def leases(tmp_path) -> Leases:
    return Leases(tmp_path / "leases")


@pytest.fixture
def seen_by_others(leases, tmp_path):
    """What another process takes to be leased."""
    return lambda: Leases(tmp_path / "leases").held()


def test_what_a_thread_leases_in_an_inner_block_stays_until_the_outer_one_ends(
    leases, seen_by_others, tmp_path
):
    def inner() -> None:
        with leases.block():
            leases.add(tmp_path / "kind" / "name")

    with leases.block():
        thread = threading.Thread(target=inner)
        thread.start()
        thread.join()
        assert seen_by_others() == {"kind/name"}
    assert seen_by_others() == set()


def test_inner_blocks_of_threads_overlap_as_they_like(leases, seen_by_others, tmp_path):
    entered, leave = [threading.Barrier(4) for _ in range(2)]

    def inner(number: int) -> None:
        with leases.block():
            entered.wait(TIMEOUT)
            leases.add(tmp_path / "kind" / str(number))
            leave.wait(TIMEOUT)

    with leases.block():
        threads = [threading.Thread(target=inner, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        entered.wait(TIMEOUT)
        leave.wait(TIMEOUT)
        for thread in threads:
            thread.join()
        assert seen_by_others() == {"kind/0", "kind/1", "kind/2"}
    assert not list((tmp_path / "leases").iterdir())


def test_after_the_outer_block_another_one_leases_anew(leases, seen_by_others, tmp_path):
    for name in ("one", "other"):
        with leases.block():
            with leases.block():
                leases.add(tmp_path / "kind" / name)
            assert seen_by_others() == {f"kind/{name}"}


def test_outside_of_a_block_nothing_is_leased(leases, seen_by_others, tmp_path):
    with leases.block():
        pass
    leases.add(tmp_path / "kind" / "name")
    assert seen_by_others() == set()
