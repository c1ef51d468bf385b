import shutil

import pytest
from footage import make_ucf_folder

from lora_tta.data.ucf101 import find_videos
from lora_tta.data.ucf101_import import import_ucf101
from lora_tta.errors import UserError
from lora_tta.files import PARTIAL_PATTERN


@pytest.fixture
def extracted(tmp_path):
    return make_ucf_folder(tmp_path / "download" / "UCF-101", {"Archery": 2, "Biking": 1}).parent


def names(root):
    return [source.path.relative_to(root).as_posix() for source in find_videos(root)]


UCF_NAMES = [
    "Archery/v_Archery_g01_c01.avi",
    "Archery/v_Archery_g02_c01.avi",
    "Biking/v_Biking_g01_c01.avi",
]


def test_from_an_extracted_folder(extracted, tmp_path):
    (extracted / "UCF-101" / "holiday.avi").write_bytes(b"not of the data set")
    counts = import_ucf101(extracted, tmp_path / "data")
    assert names(tmp_path / "data") == UCF_NAMES
    assert (counts.imported, counts.already_there, counts.removed, counts.classes) == (3, 0, 0, 2)
    original = extracted / "UCF-101" / UCF_NAMES[0]
    assert (tmp_path / "data" / UCF_NAMES[0]).read_bytes() == original.read_bytes()


@pytest.mark.parametrize("archive_format", ["zip", "gztar"])
def test_from_an_archive(extracted, tmp_path, archive_format):
    archive = shutil.make_archive(str(tmp_path / "UCF101"), archive_format, extracted)
    import_ucf101(tmp_path / archive, tmp_path / "data")
    assert names(tmp_path / "data") == UCF_NAMES
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_an_archive_no_program_can_unpack(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "UCF101.rar").write_bytes(b"Rar!")
    with pytest.raises(UserError, match="unrar, bsdtar, 7z"):
        import_ucf101(tmp_path / "UCF101.rar", tmp_path / "data")


def test_a_damaged_archive(tmp_path):
    (tmp_path / "UCF101.zip").write_bytes(b"PK and no more")
    with pytest.raises(UserError, match="cannot be unpacked"):
        import_ucf101(tmp_path / "UCF101.zip", tmp_path / "data")


def test_an_interrupted_import_is_taken_up(extracted, tmp_path):
    import_ucf101(extracted, tmp_path / "data")
    (tmp_path / "data" / UCF_NAMES[2]).unlink()
    counts = import_ucf101(extracted, tmp_path / "data")
    assert (counts.imported, counts.already_there) == (1, 2)
    assert names(tmp_path / "data") == UCF_NAMES


def test_what_an_interrupted_import_left_is_removed_by_the_next(extracted, tmp_path):
    left = tmp_path / "data" / "Biking" / ".0123456789ab.partial.avi"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert left.match(PARTIAL_PATTERN)
    import_ucf101(extracted, tmp_path / "data")
    assert not left.exists()


def test_other_clips_are_never_mixed_in(extracted, tmp_path):
    make_ucf_folder(tmp_path / "data", {"Waves": 1})
    with pytest.raises(UserError, match=r"already holds 1 other videos.*--replace"):
        import_ucf101(extracted, tmp_path / "data")
    assert names(tmp_path / "data") == ["Waves/v_Waves_g01_c01.avi"]
    counts = import_ucf101(extracted, tmp_path / "data", replace=True)
    assert counts.removed == 1
    assert names(tmp_path / "data") == UCF_NAMES
    assert not (tmp_path / "data" / "Waves").exists()


def test_a_clip_of_the_same_name_but_other_content_is_another_clip(extracted, tmp_path):
    changed = tmp_path / "data" / UCF_NAMES[0]
    changed.parent.mkdir(parents=True)
    changed.write_bytes(b"something else")
    with pytest.raises(UserError, match="--replace"):
        import_ucf101(extracted, tmp_path / "data")
    import_ucf101(extracted, tmp_path / "data", replace=True)
    assert changed.read_bytes() == (extracted / "UCF-101" / UCF_NAMES[0]).read_bytes()


def test_official_lists_come_along(extracted, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\n")
    counts = import_ucf101(extracted, tmp_path / "data", lists=lists)
    assert counts.lists == 1
    copied = tmp_path / "data" / "ucfTrainTestlist" / "testlist01.txt"
    assert copied.read_text() == "Archery/v_Archery_g01_c01.avi\n"
    assert names(tmp_path / "data") == UCF_NAMES


def test_wrong_sources_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="not found"):
        import_ucf101(tmp_path / "none", tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no clips named"):
        import_ucf101(tmp_path / "empty", tmp_path / "data")
    with pytest.raises(UserError, match=r"no \.txt lists"):
        import_ucf101(tmp_path / "empty", tmp_path / "data", lists=tmp_path / "empty")
