import os
import time

from lora_tta.search.heartbeat import Heartbeat


def test_a_worker_is_alive_while_it_beats_and_not_after(tmp_path):
    with Heartbeat(tmp_path, 0.05) as observer:
        with Heartbeat(tmp_path, 0.05) as other:
            time.sleep(0.4)
            assert observer.is_alive(other.worker_id)
        assert not observer.is_alive(other.worker_id)
        assert not observer.is_alive(None)
        assert observer.is_alive(observer.worker_id)


def test_a_disk_that_fails_for_a_moment_does_not_end_the_beats(tmp_path):
    folder = tmp_path / "beats"
    with Heartbeat(folder, 0.05) as worker:
        folder.rename(tmp_path / "away")
        time.sleep(0.3)
        (tmp_path / "away").rename(folder)
        beat = (folder / worker.worker_id).stat().st_mtime
        time.sleep(0.3)
        assert (folder / worker.worker_id).stat().st_mtime > beat


def test_a_worker_that_stopped_without_a_word_is_dead_after_three_beats(tmp_path):
    with Heartbeat(tmp_path, 10) as observer:
        (tmp_path / "killed").touch()
        assert observer.is_alive("killed")
        past = time.time() - 31
        os.utime(tmp_path / "killed", (past, past))
        assert not observer.is_alive("killed")
