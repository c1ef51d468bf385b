"""Archives that are damaged, unsupported or hostile give one line, and nothing is imported."""

import io
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from footage import make_ucf_folder

from lora_tta.data import archives
from lora_tta.data.archives import unpack
from lora_tta.data.ucf101_import import import_ucf101
from lora_tta.errors import UserError

CLIP = "UCF-101/Archery/v_Archery_g01_c01.avi"


def write_tar(path: Path, *odd: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for member in (tarfile.TarInfo(CLIP), *odd):
            content = b"clip" if member.isfile() else b""
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def odd_member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def refused(archive: Path, reason: str) -> None:
    """One line, and nothing but the archive and an empty data folder is left."""
    before = set(archive.parent.rglob("*"))
    with pytest.raises(UserError, match=reason) as caught:
        import_ucf101(archive, archive.parent / "data")
    assert "\n" not in str(caught.value)
    assert set(archive.parent.rglob("*")) - before <= {archive.parent / "data"}


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (odd_member("../../escaped.txt"), "lies outside"),
        (odd_member("/tmp/escaped.txt"), "lies outside"),
        (odd_member("a/v_Archery_g01_c02.avi", tarfile.SYMTYPE, "/etc/hostname"), "link or a device"),
        (odd_member("a/v_Archery_g01_c02.avi", tarfile.SYMTYPE, "v_Archery_g01_c01.avi"), "link or a device"),
        (odd_member("a/v_Archery_g01_c02.avi", tarfile.LNKTYPE, CLIP), "link or a device"),
        (odd_member("a/v_Archery_g01_c02.avi", tarfile.FIFOTYPE), "link or a device"),
        (odd_member("a/v_Archery_g01_c02.avi", tarfile.CHRTYPE), "link or a device"),
    ],
)
def test_hostile_members_of_a_tar(tmp_path, member, reason):
    refused(write_tar(tmp_path / "a.tar", member), reason)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_damaged_tars(tmp_path, suffix):
    path = write_tar(tmp_path / f"a.tar.{suffix}", mode=f"w:{suffix}")
    data = bytearray(path.read_bytes())
    for cut in (data[: len(data) // 2], data[:20] + bytes(20) + data[40:], b""):
        path.write_bytes(cut)
        refused(path, "cannot be unpacked")


@pytest.mark.parametrize("name", ["../escaped.txt", "/escaped.txt", "..\\escaped.txt"])
def test_members_of_a_zip_that_lie_outside(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(CLIP, b"clip")
        file.writestr(name, b"escaped")
    refused(tmp_path / "a.zip", "lies outside")


def test_a_link_in_a_zip(tmp_path):
    member = zipfile.ZipInfo(CLIP)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(member, "/etc/hostname")
    refused(tmp_path / "a.zip", "link or a device")


def test_a_wrong_checksum_encryption_and_an_unknown_compression(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(CLIP, b"0123456789" * 50)
    whole = (tmp_path / "a.zip").read_bytes()
    local, central = whole.index(b"PK\x03\x04"), whole.index(b"PK\x01\x02")
    changes = {
        "Bad CRC-32": {whole.index(b"0123"): b"X"},
        "encrypted": {local + 6: b"\x01", central + 8: b"\x01"},
        "not supported": {local + 8: b"\x09", central + 10: b"\x09"},
    }
    for reason, change in changes.items():
        data = bytearray(whole)
        for place, byte in change.items():
            data[place : place + 1] = byte
        (tmp_path / "a.zip").write_bytes(data)
        refused(tmp_path / "a.zip", reason)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_more_than_the_limit_is_not_unpacked(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "_MAX_BYTES", 3)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(CLIP, b"clip")
    write_tar(tmp_path / "a.tar")
    refused(tmp_path / f"a.{kind}", "allowed")


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_whole_archives_are_unpacked(tmp_path, kind):
    folder = make_ucf_folder(tmp_path / "in" / "UCF-101", {"Archery": 1})
    archive = shutil.make_archive(str(tmp_path / "a"), kind, folder.parent)
    unpack(Path(archive), tmp_path / "out")
    assert (tmp_path / "out" / CLIP).read_bytes() == (tmp_path / "in" / CLIP).read_bytes()
