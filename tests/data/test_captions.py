"""Captions: of a file beside the video, of a table, of the class."""

import pytest

from lora_tta.data.captions import caution, with_captions
from lora_tta.data.ucf101 import find_videos
from lora_tta.errors import UserError

SUFFIX = "4 motion score."


@pytest.fixture
def root(tmp_path):
    for name in ("Archery/a.avi", "Archery/b, c.avi", "Biking/a.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x00")
    return tmp_path


def captions(root, suffix=None):
    sources = with_captions(find_videos(root), root, suffix)
    return {source.path.relative_to(root).as_posix(): source.caption for source in sources}


def test_without_a_word_the_class_is_the_caption(root):
    assert captions(root) == {
        "Archery/a.avi": "archery",
        "Archery/b, c.avi": "archery",
        "Biking/a.avi": "biking",
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "captions.csv",
            '\ufeffcaption,path\r\n"A man, ""Bo"",\nshoots",Archery/a.avi\r\nB,"Archery/b, c.avi"\r\n',
        ),
        (
            "captions.jsonl",
            '{"path": "./Archery/a.avi", "caption": "A man, \\"Bo\\", shoots", "seconds": 3}\n\n'
            '{"path": "Archery\\\\b, c.avi", "caption": "B"}\n',
        ),
    ],
)
def test_a_table_names_captions_by_path_and_a_text_beside_the_video_comes_first(root, name, text):
    (root / name).write_text(text, newline="")
    (root / "Archery" / "b, c.txt").write_text("  An arrow\nflies. \n")
    assert captions(root) == {
        "Archery/a.avi": 'A man, "Bo", shoots',
        "Archery/b, c.avi": "An arrow flies.",
        "Biking/a.avi": "biking",
    }


def test_the_suffix_follows_every_caption(root):
    (root / "Archery" / "a.txt").write_text("")
    assert list(captions(root, SUFFIX).values()) == [SUFFIX, f"archery {SUFFIX}", f"biking {SUFFIX}"]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"captions.csv": "file,caption\na,b\n"}, "captions.csv: there is no 'path'"),
        ({"captions.csv": "path,caption\na\n"}, "captions.csv: entry 1 has no text"),
        ({"captions.csv": "path,caption\na,b\na,c\n"}, "captions.csv: a has two captions"),
        ({"captions.jsonl": '{"path": "a"'}, "captions.jsonl: Expecting"),
        ({"captions.jsonl": "[1]"}, "captions.jsonl: "),
        ({"captions.jsonl": '{"path": "a", "caption": 3}'}, "captions.jsonl: entry 1 has no text"),
        ({"captions.csv": "path,caption\n", "captions.jsonl": ""}, "leave one of them"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(root, files, problem):
    for name, text in files.items():
        (root / name).write_text(text)
    with pytest.raises(UserError, match=problem) as caught:
        captions(root)
    assert "\n" not in str(caught.value)


def test_a_caption_in_another_encoding_is_one_line(root):
    (root / "Archery" / "a.txt").write_bytes("übung".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.txt cannot be read as captions"):
        captions(root)


@pytest.mark.parametrize(
    ("given", "warning"),
    [
        (["a", "b", "c"], None),
        (["a", "a", "b", "b"], None),
        (["a"], None),
        (["a", "a", "b"], "2 of 3 clips are the same, 'a'"),
        ([SUFFIX, SUFFIX], "2 of 2 clips are empty"),
        (["", ""], "2 of 2 clips are empty"),
    ],
)
def test_a_caution_where_most_captions_are_equal_or_empty(given, warning):
    said = caution(given, SUFFIX)
    assert said is None if warning is None else warning in said
