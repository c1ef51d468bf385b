"""Collections with captions: plain tables, Panda-70M, and folders with texts in them."""

import shutil

import pytest
from footage import encode, moving_frames
from marked import marked_frames, numbers, read_clip

from lora_tta.data.captions import with_captions
from lora_tta.data.listed_import import import_collection
from lora_tta.data.split import footage_key
from lora_tta.data.ucf101 import find_videos
from lora_tta.errors import UserError

PANDA = "videoID,url,timestamp,caption,matching_score\n"


@pytest.fixture
def folder(tmp_path):
    for name in ("cats/a.mp4", "cats/b, c.mp4", "dog.webm"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() + b"\0")
    return tmp_path / "in"


def captions(root):
    sources = with_captions(find_videos(root), root, None)
    return {source.path.relative_to(root).as_posix(): source.caption for source in sources}


def table(tmp_path, text: str, encoding: str = "utf-8"):
    (tmp_path / "table.csv").write_text(text, encoding=encoding, newline="")
    return tmp_path / "table.csv"


class TestPlainTables:
    """Columns ``path`` and ``caption``; nothing is imported if a row is wrong."""

    @pytest.mark.parametrize("form", ["folder", "zip"])
    def test_files_keep_their_paths_and_get_their_captions(self, folder, tmp_path, form):
        listed = 'id,caption,path\r\n1,"A cat,\n""Bo""",./cats/a.mp4\r\n2,Ein Käter,cats\\b, c.mp4\r\n'
        listed = table(tmp_path, listed.replace("cats\\b, c.mp4", '"cats\\b, c.mp4"'), "utf-8-sig")
        source = (
            folder if form == "folder" else tmp_path / shutil.make_archive(str(tmp_path / "a"), "zip", folder)
        )
        counts = import_collection(source, tmp_path / "data", listed)
        assert captions(tmp_path / "data") == {"cats/a.mp4": 'A cat, "Bo"', "cats/b, c.mp4": "Ein Käter"}
        assert (counts.brought.imported, counts.captions, counts.not_there) == (2, 2, 0)
        assert not list(tmp_path.glob(".*"))

    def test_again_it_takes_nothing_new_but_the_captions(self, folder, tmp_path):
        import_collection(folder, tmp_path / "data", table(tmp_path, "path,caption\ndog.webm,one\n"))
        counts = import_collection(folder, tmp_path / "data", table(tmp_path, "path,caption\ndog.webm,two\n"))
        assert (counts.brought.imported, counts.brought.already_there) == (0, 1)
        assert captions(tmp_path / "data") == {"dog.webm": "two"}

    def test_other_videos_are_replaced_with_their_captions_if_asked(self, folder, tmp_path):
        import_collection(folder, tmp_path / "data", table(tmp_path, "path,caption\ncats/a.mp4,one\n"))
        other = table(tmp_path, "path,caption\ndog.webm,two\n")
        with pytest.raises(UserError, match="--replace"):
            import_collection(folder, tmp_path / "data", other)
        import_collection(folder, tmp_path / "data", other, replace=True)
        files = sorted(path.name for path in (tmp_path / "data").rglob("*"))
        assert files == ["dog.txt", "dog.webm"]

    @pytest.mark.parametrize(
        ("rows", "reason"),
        [
            ("../secret.mp4,a", "entry 1: ../secret.mp4 leads out of the folder"),
            ("cats/../../secret.mp4,a", "leads out"),
            ("/etc/hostname,a", "leads out"),
            ("C:\\a.mp4,a", "leads out"),
            ("\\\\server\\a.mp4,a", "leads out"),
            (".hidden/a.mp4,a", "is hidden"),
            (",a", "is no path"),
            ("dog.webm,a\ndog.webm,b", "entry 2: dog.webm is listed twice"),
            ("dog.webm", "there is no caption"),
            ("dog.webm,a\nnone.mp4,b", "1 of 2 files are not in the folder, such as none.mp4"),
            ("cats,a", "not in the folder"),
            ('dog.webm,"a', "no valid CSV"),
            ("", "lists no videos"),
        ],
    )
    def test_a_wrong_row_is_one_line_and_nothing_is_imported(self, folder, tmp_path, rows, reason):
        (tmp_path / "secret.mp4").write_bytes(b"\0")
        with pytest.raises(UserError, match=reason) as caught:
            import_collection(folder, tmp_path / "data", table(tmp_path, f"path,caption\n{rows}\n"))
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "data").rglob("*")) if (tmp_path / "data").exists() else True

    @pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-32"])
    def test_a_table_in_another_encoding(self, folder, tmp_path, encoding):
        listed = table(tmp_path, "path,caption\ndog.webm,Ein Käter\n", encoding)
        with pytest.raises(UserError, match="cannot be read as a table in UTF-8"):
            import_collection(folder, tmp_path / "data", listed)

    @pytest.mark.parametrize("text", ["", "name,text\na,b\n", "videoID,caption\na,b\n", "\0\0\0"])
    def test_other_columns(self, folder, tmp_path, text):
        with pytest.raises(UserError, match="give the columns path and caption"):
            import_collection(folder, tmp_path / "data", table(tmp_path, text))

    def test_missing_files_are_passed_over_if_asked(self, folder, tmp_path):
        listed = table(tmp_path, "path,caption\ndog.webm,a\nnone.mp4,b\n")
        counts = import_collection(folder, tmp_path / "data", listed, skip_missing=True)
        assert (counts.brought.imported, counts.not_there) == (1, 1)

    def test_two_files_that_would_share_a_text(self, folder, tmp_path):
        (folder / "dog.mp4").write_bytes(b"\0")
        listed = table(tmp_path, "path,caption\ndog.webm,a\ndog.mp4,b\n")
        with pytest.raises(UserError, match=r"dog.webm and dog.mp4 would share the caption"):
            import_collection(folder, tmp_path / "data", listed)


class TestPanda70M:
    """A row for each YouTube video, with lists of times and captions; videos are named by their ids."""

    @pytest.mark.parametrize(
        ("suffix", "codec", "options"),
        [
            ("mp4", "libx264", {"crf": "18", "g": "50", "bf": "3"}),
            ("webm", "libvpx-vp9", {"crf": "20", "b": "0", "g": "50", "deadline": "realtime"}),
            ("mkv", "libx264", {"crf": "18", "g": "33"}),
        ],
    )
    def test_clips_are_cut_where_the_table_says(self, tmp_path, suffix, codec, options):
        encode(tmp_path / "in" / f"a-B_9.{suffix}", marked_frames(range(240)), 24, codec, options=options)
        rows = (
            """a-B_9,https://www.youtube.com/watch?v=a-B_9,"[['0:00:00.500', '0:00:03.500'], """
            """['0:00:05.000', '0:00:08.000']]","['A cat.', ""It's a 'dog'.""]","[0.45, 0.5]"\n"""
            """gone,https://youtu.be/gone,"[['0:00:00.500', '0:00:03.500']]",['None'],[0.4]\n"""
        )
        counts = import_collection(tmp_path / "in", tmp_path / "data", table(tmp_path, PANDA + rows))
        first, second = "a-B_9/a-B_9_c00000.mp4", "a-B_9/a-B_9_c00001.mp4"
        assert captions(tmp_path / "data") == {first: "A cat.", second: "It's a 'dog'."}
        for name, begin in ((first, 12), (second, 120)):
            assert numbers(read_clip(tmp_path / "data" / name, tmp_path / "out")) == list(
                range(begin, begin + 65)
            )
        keys = {footage_key(*path) for path in (("a-B_9", tmp_path / first), ("a-B_9", tmp_path / second))}
        assert len(keys) == 1, "clips of one video are of one group"
        assert (counts.brought.imported, counts.not_there, counts.unusable) == (2, 1, "")

    def test_the_id_is_found_in_the_address_and_one_clip_needs_no_list(self, tmp_path):
        encode(tmp_path / "in" / "abc.mp4", moving_frames(60))
        rows = """https://youtu.be/watch?v=abc&t=1,"['0:00:00', '0:00:02.0']",A cat\n"""
        import_collection(
            tmp_path / "in", tmp_path / "data", table(tmp_path, f"url,timestamp,caption\n{rows}")
        )
        assert captions(tmp_path / "data") == {"abc/abc_c00000.mp4": "A cat"}

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ("""../x,u,"[['0:00:00', '0:00:02']]",['a'],1""", "'../x' is no id"),
            ("""abc,u,"[['0:00:00', '0:00:02']]","['a', 'b']",1""", "not as many captions as times"),
            ("""abc,u,"[['0:00:03', '0:00:02']]",['a'],1""", "ends before it starts"),
            ("""abc,u,"[['x', '0:00:02']]",['a'],1""", "'x' is no time"),
            ("""abc,u,"[['0:00:00']]",['a'],1""", "without start and end"),
            ("""abc,u,"[['0:00:00', '0:00:02']]",[1],1""", "no text"),
            ("""abc,u,[[[[,['a'],1""", "is no list"),
            (f"abc,u,{'[' * 5000},['a'],1", "is no list"),
            ("""abc,u,"[['0:00:09', '0:00:12']]",['a'],1""", "nothing is shown from 9 to 12 s"),
            ("""none,u,"[['0:00:00', '0:00:02']]",['a'],1""", "holds none of the videos"),
        ],
    )
    def test_a_wrong_row_is_one_line(self, tmp_path, row, reason):
        encode(tmp_path / "in" / "abc.mp4", moving_frames(48))
        with pytest.raises(UserError, match=reason) as caught:
            import_collection(tmp_path / "in", tmp_path / "data", table(tmp_path, f"{PANDA}{row}\n"))
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "data").rglob("*")) if (tmp_path / "data").exists() else True

    def test_a_video_that_is_damaged_is_told_and_the_others_are_taken(self, tmp_path):
        encode(tmp_path / "in" / "abc.mp4", moving_frames(60))
        (tmp_path / "in" / "bad.mp4").write_bytes(b"\0" * 100)
        span = """"[['0:00:00', '0:00:02']]",['a'],1\n"""
        rows = "".join(f"{name},u,{span}" for name in ("abc", "bad"))
        counts = import_collection(tmp_path / "in", tmp_path / "data", table(tmp_path, PANDA + rows))
        assert counts.brought.imported == 1
        assert counts.unusable.startswith("1 clips cannot be cut, such as bad.mp4: ")


def test_a_folder_brings_the_captions_that_lie_in_it(folder, tmp_path):
    (folder / "cats" / "a.txt").write_text("a cat")
    counts = import_collection(folder, tmp_path / "data")
    assert captions(tmp_path / "data") == {"cats/a.mp4": "a cat", "cats/b, c.mp4": "cats", "dog.webm": "dog"}
    assert (counts.brought.imported, counts.captions) == (3, 1)


def test_clips_as_panda_s_downloader_names_them_are_grouped_by_video(tmp_path):
    for name in ("00000/0000003_00001", "00000/0000003_00002"):
        path = tmp_path / "in" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0")
        path.with_suffix(".txt").write_text("a cat")
        path.with_suffix(".json").write_text("{}")
    import_collection(tmp_path / "in", tmp_path / "data")
    assert set(captions(tmp_path / "data")) == {f"0000003/0000003_c0000{number}.mp4" for number in (1, 2)}


def test_a_folder_without_videos(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="holds no videos"):
        import_collection(tmp_path / "in", tmp_path / "data")
    with pytest.raises(UserError, match="not found"):
        import_collection(tmp_path / "none", tmp_path / "data")
