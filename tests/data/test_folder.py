"""What of a folder may be a video, and what is skipped with its reason."""

import os
import shutil

import pytest
from marked import CASES

from lora_tta.data.folder import list_files
from lora_tta.data.ucf101 import MAX_ID_BYTES, find_videos

BINARY = b"\x00\x01\x02\x03"


def write(root, **contents):
    for name, content in contents.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def names(root):
    return [path.relative_to(root).as_posix() for path in list_files(root).files]


def skipped(root):
    return {item.source: item.detail for item in list_files(root).skipped}


def test_content_decides_and_hidden_files_and_texts_are_left_out(tmp_path):
    write(
        tmp_path,
        noname=BINARY,
        movie_dot_dat=BINARY,
        clip_dot_txt=BINARY,
        _dot_hidden_dot_mp4=BINARY,
        _dot_cache__a_dot_mp4=BINARY,
        README_dot_md="# Ümlaut\n".encode(),
        notes_dot_txt=b"\xff\xfea\x00",
        empty=b"",
    )
    assert names(tmp_path) == ["clip.txt", "movie.dat", "noname"]
    assert not skipped(tmp_path)


def test_a_text_that_is_named_like_a_video_or_a_playlist_is_listed(tmp_path):
    write(tmp_path, a_dot_mp4=b"<html>404</html>", b_dot_m3u8=b"#EXTM3U\n", c_dot_avi=b"")
    assert names(tmp_path) == ["a.mp4", "b.m3u8", "c.avi"]


def test_links_to_folders_and_files_are_followed(tmp_path):
    data = write(tmp_path / "far", Archery__a_dot_avi=BINARY, Biking__b_dot_avi=BINARY)
    root = write(tmp_path / "root", Diving__c_dot_avi=BINARY)
    (root / "Archery").symlink_to(data / "Archery")
    (root / "all").symlink_to(data)
    (root / "d.avi").symlink_to(data / "Biking" / "b.avi")
    assert names(root) == [
        "Archery/a.avi",
        "Diving/c.avi",
        "all/Archery/a.avi",
        "all/Biking/b.avi",
        "d.avi",
    ]
    (tmp_path / "linked").symlink_to(root)
    assert len(find_videos(tmp_path / "linked")) == 5


def test_loops_and_broken_links_are_listed(tmp_path):
    write(tmp_path, a__b__c_dot_avi=BINARY)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == ["a/b/c.avi"]
    assert skipped(tmp_path) == {
        "a/b/up": "the link leads to a folder that it lies in",
        "a/self": "the link leads nowhere",
        "gone.mp4": "the link leads nowhere",
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_listed_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert skipped(tmp_path) == {"pipe.mp4": "it is neither a file nor a folder"}


ODD_NAMES = [
    'it\'s "mine" & yours (1) [x] {y} $z',
    "2024",
    "null",
    "~",
    "a: b #c",
    "-rf",
    "видео 動画 ویدیو",
    "a\nb\tc",
    "concat:a|b",
    "é" * 125,
    "动" * 83,
    "x" * 251,
    b"\xff\xfe\xfd".decode("utf-8", "surrogateescape"),
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_any_name_gives_an_id_that_every_later_file_can_have(tmp_path, name):
    for path in (tmp_path / f"{name}.avi", tmp_path / name / f"{name}.avi"):
        path.parent.mkdir(exist_ok=True)
        shutil.copy(CASES / "one_frame_10s.mp4", path)
    sources = find_videos(tmp_path)
    ids = {source.clip_id for source in sources}
    assert len(ids) == 2
    for source in sources:
        assert len(source.clip_id.encode()) <= MAX_ID_BYTES + 2
        assert not set(source.clip_id) & set("/\\:*?\"<>|'\n\t ")
        source.class_name.encode()


def test_long_names_with_one_beginning_have_different_ids(tmp_path):
    for end in "ab":
        (tmp_path / f"{'x' * 240}{end}.avi").write_bytes(BINARY)
    ids = [source.clip_id for source in find_videos(tmp_path)]
    assert len(set(ids)) == 2
    assert ids == [source.clip_id for source in find_videos(tmp_path)]


def test_names_that_differ_in_case_alone_have_ids_that_differ_in_more(tmp_path):
    for name in ("a/Clip.avi", "b/clip.avi"):
        write(tmp_path, **{name.replace("/", "__").replace(".", "_dot_"): BINARY})
    assert len({source.clip_id.lower() for source in find_videos(tmp_path)}) == 2
