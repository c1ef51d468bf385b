"""The check of locks before work: with real files and processes, and with mounts as Linux lists them."""

import fcntl
from pathlib import Path

import pytest

from lora_tta.cache import lock_check
from lora_tta.cache.lock_check import check_locks, excludes_others, mounted_for_one_machine
from lora_tta.errors import UserError

MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
server:/home /home nfs4 rw,vers=4.2,local_lock=none 0 0
server:/old /old nfs rw,vers=3,nolock,local_lock=all 0 0
tank@tcp:/lustre /lustre lustre rw,flock,lazystatfs 0 0
tank@tcp:/fast /fast lustre rw,localflock 0 0
me@host: /my\\040remote fuse.sshfs rw 0 0
/dev/sdb1 /old/local ext4 rw 0 0
"""


@pytest.fixture
def mounts(tmp_path) -> Path:
    path = tmp_path / "mounts"
    path.write_text(MOUNTS)
    return path


def test_a_lock_that_one_process_holds_is_held_for_another(tmp_path):
    with (tmp_path / "lock").open("w") as file:
        assert not excludes_others(Path(file.name))
        fcntl.flock(file, fcntl.LOCK_EX)
        assert excludes_others(Path(file.name))


def test_a_local_disk_passes_and_keeps_nothing_of_the_check(tmp_path, capsys):
    check_locks(tmp_path / "cache", several_machines=True)
    assert not list((tmp_path / "cache").iterdir())
    assert capsys.readouterr() == ("", "")


def test_a_file_system_that_gives_a_lock_twice_is_refused(tmp_path, monkeypatch):
    # Whoever asks for a shared lock gets one beside the others.
    monkeypatch.setattr(lock_check, "TRY", lock_check.TRY.replace("LOCK_EX", "LOCK_UN"))
    with pytest.raises(UserError, match="cache gives two processes the same lock: set it to a file system"):
        check_locks(tmp_path / "cache")


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("/srv/cache", None),
        ("/home/me/cache", None),
        ("/old/cache", "nfs, local_lock=all, nolock"),
        ("/old/local/cache", None),
        ("/lustre/cache", None),
        ("/fast/cache", "lustre, localflock"),
        ("/my remote/cache", "fuse.sshfs"),
    ],
)
def test_file_systems_whose_locks_stay_on_one_machine_are_told_apart(mounts, folder, found):
    assert mounted_for_one_machine(Path(folder), mounts) == found
    assert mounted_for_one_machine(Path(folder), mounts.with_name("none")) is None


def test_they_are_refused_for_a_cluster_and_told_of_elsewhere(tmp_path, monkeypatch, capsys):
    (tmp_path / "mounts").write_text(f"server:/x {tmp_path} nfs rw,nolock 0 0\n")
    monkeypatch.setattr(mounted_for_one_machine, "__defaults__", (tmp_path / "mounts",))
    with pytest.raises(UserError, match=r"do not see each other's locks \(nfs, nolock\)"):
        check_locks(tmp_path, several_machines=True)
    check_locks(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "use it from one machine at a time" in line
