import os
import subprocess
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
    with Heartbeat(tmp_path, 0.1) as observer:
        (tmp_path / "killed").touch()
        assert observer.is_alive("killed")
        time.sleep(0.4)
        assert not observer.is_alive("killed")


def test_a_worker_of_this_machine_whose_process_has_ended_is_dead_at_once(tmp_path):
    with Heartbeat(tmp_path, 10) as observer:
        machine, pid, _ = observer.worker_id.rsplit("-", 2)
        ended = subprocess.Popen(["true"])
        ended.wait()
        for name, alive in [(f"{machine}-{ended.pid}-0", False), (f"{machine}-{pid}-1", True)]:
            (tmp_path / name).touch()
            assert observer.is_alive(name) == alive
        elsewhere = f"another.0-{ended.pid}-0"
        (tmp_path / elsewhere).touch()
        assert observer.is_alive(elsewhere)


def test_after_a_sleep_or_a_jump_of_the_clock_the_others_have_time_to_beat(tmp_path):
    with Heartbeat(tmp_path, 0.2) as observer:
        (tmp_path / "other").touch()
        assert observer.is_alive("other")
        # An hour has passed for the file system, and not for those that slept or whose clock was set.
        past = time.time() - 3600
        os.utime(tmp_path / "other", (past, past))
        assert observer.is_alive("other")
        (tmp_path / "other").touch()
        assert observer.is_alive("other")
        os.utime(tmp_path / "other", (past, past))
        assert observer.is_alive("other")
        time.sleep(0.35)
        assert not observer.is_alive("other")


def test_a_worker_that_died_before_the_clock_was_set_back_is_found_dead(tmp_path):
    with Heartbeat(tmp_path, 0.1) as observer:
        future = time.time() + 3600
        (tmp_path / "killed").touch()
        os.utime(tmp_path / "killed", (future, future))
        assert observer.is_alive("killed")
        time.sleep(0.4)
        assert not observer.is_alive("killed")
