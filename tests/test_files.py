"""Files and folders that are either whole or not there."""

from pathlib import Path

import pandas as pd
import pytest

from lora_tta.files import PARTIAL_PATTERN, atomic, file_sha256, write_csv, write_text


def fill(path: Path, kind: str, content: str) -> None:
    """A file with the content, or a folder with a file of it."""
    if kind == "folder":
        path.mkdir()
        path = path / "inside" / "file.txt"
        path.parent.mkdir()
    path.write_text(content)


def content(path: Path) -> str:
    return (path / "inside" / "file.txt" if path.is_dir() else path).read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


both = pytest.mark.parametrize("kind", ["file", "folder"])


@both
def test_it_appears_at_the_end_of_the_block_and_not_before(tmp_path, kind):
    path = tmp_path / "new" / "parents" / "result.txt"
    with atomic(path) as partial:
        fill(partial, kind, "whole")
        assert not path.exists()
    assert content(path) == "whole"
    assert names(path.parent) == ["result.txt"]


@both
def test_it_replaces_the_old_one_completely(tmp_path, kind):
    path = tmp_path / "result"
    for text in ("old", "new"):
        with atomic(path) as partial:
            fill(partial, kind, text)
            if text == "old" and kind == "folder":
                (partial / "only in the old one").touch()
    assert content(path) == "new"
    assert names(tmp_path) == ["result"]
    if kind == "folder":
        assert names(path) == ["inside"]


@both
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_one_and_nothing_else(tmp_path, kind, error):
    path = tmp_path / "result.txt"
    fill(path, kind, "old")

    def write_half() -> None:
        with atomic(path) as partial:
            fill(partial, kind, "half")
            raise error

    with pytest.raises(error):
        write_half()
    assert content(path) == "old"
    assert names(tmp_path) == ["result.txt"]


def test_an_exception_before_anything_is_written_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic(tmp_path / "result.txt"):
        raise RuntimeError
    assert names(tmp_path) == []


def test_a_block_that_writes_nothing_is_an_error_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic(path):
        pass
    assert path.read_text() == "old"


@pytest.mark.parametrize(("old", "new"), [("file", "folder"), ("folder", "file")])
def test_neither_replaces_one_of_the_other_kind(tmp_path, old, new):
    path = tmp_path / "result"
    fill(path, old, "old")
    with pytest.raises(OSError), atomic(path) as partial:  # noqa: PT011
        fill(partial, new, "new")
    assert content(path) == "old"
    assert names(tmp_path) == ["result"]


def test_the_path_to_write_to_lies_beside_with_the_same_suffix_and_is_no_ones_elses(tmp_path):
    path = tmp_path / "video.mp4"
    with atomic(path) as one, atomic(path) as other:
        assert one.parent == other.parent == tmp_path
        assert one.suffix == other.suffix == ".mp4"
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # its block ended last


def test_what_an_interruption_leaves_behind_is_hidden_and_known_by_its_pattern(tmp_path):
    with atomic(tmp_path / "table.csv") as partial:
        partial.touch()
        assert list(tmp_path.glob(PARTIAL_PATTERN)) == [partial]
        assert partial.name.startswith(".")


def test_text_is_utf8_with_unix_line_ends(tmp_path):
    write_text(tmp_path / "text", "ä\n")
    assert (tmp_path / "text").read_bytes() == "ä\n".encode()


def test_a_table_keeps_every_float32_and_leaves_missing_values_empty(tmp_path):
    write_csv(
        tmp_path / "table.csv", pd.DataFrame({"value": [16777217 / 3, float("nan")], "name": ["a", "b"]})
    )
    assert (tmp_path / "table.csv").read_text() == "value,name\n5592405.67,a\n,b\n"


def test_a_hash_is_that_of_the_content(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
