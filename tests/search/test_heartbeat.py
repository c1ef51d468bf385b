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


def test_a_worker_that_stopped_without_a_word_is_dead_after_three_beats(tmp_path):
    with Heartbeat(tmp_path, 10) as observer:
        (tmp_path / "killed").touch()
        assert observer.is_alive("killed")
        past = time.time() - 31
        os.utime(tmp_path / "killed", (past, past))
        assert not observer.is_alive("killed")
