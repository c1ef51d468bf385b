import hashlib
import json
import shutil
from collections import Counter, defaultdict

import pytest
from footage import CLIPS, encode, make_ucf_folder, moving_frames

from lora_tta.config import DataParams, PreprocessParams
from lora_tta.data.preprocess import check_folder, preprocess
from lora_tta.data.video import read_clip_frames, read_conditioning_frames
from lora_tta.errors import UserError
from lora_tta.records.clips import read_manifest


def params(num_clips=None, seed=0, search_clips=1, **others) -> PreprocessParams:
    return PreprocessParams(
        **{
            "size": None,
            "height": 32,
            "width": 48,
            "fps": 24,
            "conditioning_frames": 33,
            "generated_frames": 32,
            "window": "first",
            "windows_per_video": 1,
            "stride": None,
            "num_clips": num_clips,
            "search_clips": search_clips,
            "seed": seed,
        }
        | others
    )


def data(root, split_list=None, search_list=None) -> DataParams:
    return DataParams(root=root, search_list=search_list, split_list=split_list, caption_suffix=None)


def ids(folder, split=None):
    return sorted(clip.clip_id for clip in read_manifest(folder, split))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def ucf(tmp_path_factory):
    """Three classes of four clips; the first clips of Archery are too short, cut and empty."""
    root = make_ucf_folder(tmp_path_factory.mktemp("ucf"), {"Archery": 4, "Biking": 4, "Diving": 4})
    archery = sorted((root / "Archery").iterdir())
    encode(archery[0], moving_frames(29, 48, 64), fps=25)
    archery[1].write_bytes(archery[1].read_bytes()[:5000])
    archery[2].write_bytes(b"")
    return root


def test_clips_manifest_and_companion(ucf, tmp_path, capsys):
    summary = preprocess(data(ucf), params(), tmp_path, workers=1)
    clips = read_manifest(tmp_path)
    assert {clip.class_name for clip in clips[:4]} == {"Archery", "Biking", "Diving"}
    assert len(clips) == summary.accepted == 9
    for clip in clips:
        assert clip.sha256 == hashlib.sha256((tmp_path / clip.file_name).read_bytes()).hexdigest()
        assert (ucf / clip.source).is_file()
    assert read_clip_frames(tmp_path, clips[0]).shape == (65, 32, 48, 3)
    assert (read_conditioning_frames(tmp_path, clips[0]) == read_clip_frames(tmp_path, clips[0])[:33]).all()

    companion = json.loads((tmp_path / "rejected.json").read_text())
    assert companion["rejected"] == summary.rejected == {"too_short": 1, "truncated": 1, "unreadable": 1}
    assert {entry["source"]: entry["reason"] for entry in companion["clips"]} == {
        "Archery/v_Archery_g01_c01.avi": "too_short",
        "Archery/v_Archery_g02_c01.avi": "truncated",
        "Archery/v_Archery_g03_c01.avi": "unreadable",
    }
    assert all(entry["detail"] for entry in companion["clips"])
    printed = capsys.readouterr().out
    assert printed == (
        "preprocess: 9 clips; rejected: 1 too_short, 1 truncated, 1 unreadable; "
        "1 for the search, 8 for the test\n"
    )


def test_real_files_of_several_codecs(tmp_path):
    summary = preprocess(data(CLIPS), params(), tmp_path, workers=1)
    assert {clip.clip_id for clip in read_manifest(tmp_path)} == {"av1_video", "v_BoxingSpeedBag_g01_c01"}
    assert summary.rejected == {"too_short": 1}


def test_the_number_of_workers_changes_nothing(ucf, tmp_path):
    for workers in (1, 2):
        preprocess(data(ucf), params(num_clips=5, search_clips=2), tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("seed", range(3))
def test_rejected_clips_are_replaced_within_their_class(ucf, tmp_path, seed):
    preprocess(data(ucf), params(num_clips=3, seed=seed), tmp_path, workers=1)
    clips = {clip.class_name: clip for clip in read_manifest(tmp_path)}
    assert clips.keys() == {"Archery", "Biking", "Diving"}
    assert clips["Archery"].clip_id == "v_Archery_g04_c01"
    assert Counter(clip.split for clip in clips.values()) == {"search": 1, "test": 2}


def test_what_a_former_run_left_is_removed(ucf, tmp_path):
    for num_clips in (6, 2):
        preprocess(data(ucf), params(num_clips), tmp_path, workers=1)
    assert {path.name for path in tmp_path.glob("*.mp4")} == {c.file_name for c in read_manifest(tmp_path)}


def test_only_listed_clips_are_taken_and_missing_ones_counted(ucf, tmp_path):
    split_list = tmp_path / "testlist01.txt"
    split_list.write_text("Biking/v_Biking_g02_c01.avi\nBiking/v_Biking_g09_c01.avi\n")
    summary = preprocess(data(ucf, split_list), params(), tmp_path / "out", workers=1)
    assert [clip.clip_id for clip in read_manifest(tmp_path / "out")] == ["v_Biking_g02_c01"]
    assert summary.listed_but_missing == 1
    assert json.loads((tmp_path / "out" / "rejected.json").read_text())["listed_but_missing"] == 1


def test_nothing_to_work_on_is_a_user_error(ucf, tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        preprocess(data(tmp_path / "none"), params(), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no videos"):
        preprocess(data(tmp_path / "empty"), params(), tmp_path / "out")
    (tmp_path / "list.txt").write_text("Golf/v_Golf_g01_c01.avi\n")
    with pytest.raises(UserError, match="none of the clips listed"):
        preprocess(data(ucf, tmp_path / "list.txt"), params(), tmp_path / "out")


def test_nothing_accepted_is_a_user_error_that_leaves_the_reasons(tmp_path):
    (tmp_path / "raw").mkdir()
    shutil.copy(CLIPS / "h265_video.mp4", tmp_path / "raw")
    with pytest.raises(UserError, match="1 too_short"):
        preprocess(data(tmp_path / "raw"), params(), tmp_path / "out", workers=1)
    assert json.loads((tmp_path / "out" / "rejected.json").read_text())["rejected"] == {"too_short": 1}
    assert not (tmp_path / "out" / "manifest.csv").exists()


def test_any_names_and_captions_come_through_and_what_is_skipped_is_listed(tmp_path, capsys):
    root = tmp_path / 'it\'s "mine" & [a]: b #c'
    names = [
        "null/null.avi",
        "2024/2024.avi",
        "動" * 80 + "/" + "動" * 83 + ".avi",
        "b\nc/d\te.avi",
        "x/same.avi",
    ]
    make_videos(root, *names, "y/same.avi", "noname.avi")
    (root / "noname.avi").rename(root / "noname")
    (root / "x" / "same.txt").write_text("A wave")
    (root / "gone.avi").symlink_to("nowhere")
    (root / "notes.md").write_text("# Notes")
    (root / "list.m3u8").write_text("#EXTM3U")
    preprocess(data(root), params(), tmp_path / "out", workers=2)
    clips = {clip.source: clip for clip in read_manifest(tmp_path / "out")}
    assert clips.keys() == {*names, "y/same.avi", "noname"}
    assert (clips["x/same.avi"].caption, clips["y/same.avi"].caption) == ("A wave", "y")
    assert len({clip.clip_id for clip in clips.values()}) == 7
    assert all((tmp_path / "out" / clip.file_name).is_file() for clip in clips.values())
    listed = json.loads((tmp_path / "out" / "rejected.json").read_text())
    assert {item["source"] for item in listed["clips"]} == {"gone.avi", "list.m3u8"}
    assert listed["rejected"] == {"unreadable": 2}
    assert "captions" not in capsys.readouterr().err


def test_captions_that_tell_nothing_are_warned_of(tmp_path, capsys):
    preprocess(
        data(make_videos(tmp_path / "raw", "a/b.avi", "a/c.avi")), params(), tmp_path / "out", workers=1
    )
    assert "the captions of 2 of 2 clips are the same, 'a'" in capsys.readouterr().err


def test_a_data_folder_is_checked_by_one_video_that_opens(tmp_path):
    root = make_videos(tmp_path / "raw", "b.avi")
    (root / "a.avi").write_text("not a video")
    check_folder(root)
    (root / "b.avi").rename(root / b"\xff.avi".decode(errors="surrogateescape"))
    with pytest.raises(UserError, match="UTF-8"):
        check_folder(root)


def make_videos(root, *names, seed=0):
    """A video for each name, all with different pictures."""
    for number, name in enumerate(names):
        encode(root / name, moving_frames(70, 32, 48, seed=100 * seed + number), fps=25)
    return root


def test_groups_and_copies_are_in_one_part(tmp_path):
    """Groups of two clips, a copy of a clip under its own name, and the same pictures in two containers."""
    root = make_videos(
        tmp_path / "raw",
        *(
            f"{name}/v_{name}_g{group:02}_c{number:02}.avi"
            for name in ("Archery", "Biking")
            for group in (1, 2)
            for number in (1, 2)
        ),
    )
    shutil.copy(root / "Archery/v_Archery_g01_c01.avi", root / "copy.avi")
    frames = moving_frames(70, 32, 48, seed=77)
    for suffix, codec in ((".mkv", "ffv1"), (".avi", "ffv1")):
        encode(root / f"film{suffix}", frames, codec=codec, options={})
    expected = {
        "Archery/g01": ["copy", "v_Archery_g01_c01", "v_Archery_g01_c02"],
        "Archery/g02": ["v_Archery_g02_c01", "v_Archery_g02_c02"],
        "Biking/g01": ["v_Biking_g01_c01", "v_Biking_g01_c02"],
        "Biking/g02": ["v_Biking_g02_c01", "v_Biking_g02_c02"],
        "film.avi": ["film", "film.mkv"],
    }
    for search_clips in range(1, 9):
        preprocess(data(root), params(search_clips=search_clips), tmp_path / "out", workers=1)
        groups, splits = defaultdict(list), defaultdict(set)
        for clip in read_manifest(tmp_path / "out"):
            groups[clip.group].append(clip.clip_id)
            splits[clip.group].add(clip.split)
        assert {name: sorted(members) for name, members in groups.items()} == expected
        assert all(len(parts) == 1 for parts in splits.values())


@pytest.mark.parametrize("seed", range(3))
def test_the_search_has_clips_of_all_classes(ucf, tmp_path, seed):
    preprocess(data(ucf), params(search_clips=3, seed=seed), tmp_path, workers=1)
    assert [clip.class_name for clip in read_manifest(tmp_path, "search")] == ["Archery", "Biking", "Diving"]
    test = read_manifest(tmp_path, "test")
    assert [clip.class_name for clip in test] == 3 * ["Biking", "Diving"]


def test_the_split_depends_on_the_accepted_clips_alone(ucf, tmp_path):
    """Broken videos are tried in vain or are not even there."""
    for name in ("with", "without"):
        shutil.copytree(ucf, tmp_path / name)
    for number in (1, 2, 3):
        (tmp_path / "without" / "Archery" / f"v_Archery_g{number:02}_c01.avi").unlink()
    for seed in range(3):
        for name in ("with", "without"):
            settings = params(search_clips=4, seed=seed)
            preprocess(data(tmp_path / name), settings, tmp_path / f"out-{name}", workers=1)
        assert read_manifest(tmp_path / "out-with") == read_manifest(tmp_path / "out-without")


def test_the_line_tells_when_groups_make_the_number_impossible(tmp_path, capsys):
    names = [f"Archery/v_Archery_g{group:02}_c{number:02}.avi" for group in (1, 2) for number in (1, 2)]
    root = make_videos(tmp_path / "raw", *names)
    preprocess(data(root), params(search_clips=3), tmp_path / "out", workers=1)
    assert capsys.readouterr().out == (
        "preprocess: 4 clips; rejected: none; 2 for the search "
        "(3 asked for: groups stay whole, and some clips are left for the test), 2 for the test\n"
    )


def test_all_clips_of_a_single_group_are_for_the_test(tmp_path, capsys):
    names = [f"Archery/v_Archery_g01_c{number:02}.avi" for number in (1, 2)]
    root = make_videos(tmp_path / "raw", *names)
    preprocess(data(root), params(), tmp_path / "out", workers=1)
    assert [clip.split for clip in read_manifest(tmp_path / "out")] == ["test", "test"]
    assert capsys.readouterr().out == (
        "preprocess: 2 clips; rejected: none; 0 for the search "
        "(1 asked for: all clips are of one group, so the search will have none), 2 for the test\n"
    )


class TestOfficialLists:
    """``search_list`` and ``split_list`` make the split."""

    @pytest.fixture
    def lists(self, tmp_path):
        def write(search, test=None):
            paths = []
            for name, listed in (("trainlist01.txt", search), ("testlist01.txt", test)):
                paths.append(tmp_path / name if listed else None)
                if listed:
                    paths[-1].write_text("\n".join(f"{each.split('_')[1]}/{each}.avi" for each in listed))
            return {"search_list": paths[0], "split_list": paths[1]}

        return write

    def test_both_lists(self, ucf, lists, tmp_path, capsys):
        search = ["v_Biking_g01_c01", "v_Biking_g02_c01", "v_Diving_g01_c01", "v_Diving_g02_c01"]
        test = ["v_Archery_g04_c01", "v_Biking_g03_c01", "v_Diving_g03_c01", "v_Diving_g09_c01"]
        named = lists(search, test)
        summary = preprocess(data(ucf, **named), params(search_clips=9), tmp_path / "out", workers=1)
        assert ids(tmp_path / "out", "search") == search
        assert ids(tmp_path / "out", "test") == test[:3]
        assert summary.listed_but_missing == 1
        assert (
            f"4 for the search (9 asked for: {named['search_list']} gives no more)" in capsys.readouterr().out
        )

    @pytest.mark.parametrize("seed", range(3))
    def test_clips_are_drawn_from_both_and_stratified_in_each(self, ucf, lists, tmp_path, seed):
        search = ["v_Biking_g01_c01", "v_Biking_g02_c01", "v_Diving_g01_c01", "v_Diving_g02_c01"]
        test = ["v_Biking_g03_c01", "v_Biking_g04_c01", "v_Diving_g03_c01", "v_Diving_g04_c01"]
        settings = params(num_clips=4, search_clips=2, seed=seed)
        for workers in (1, 2):
            preprocess(data(ucf, **lists(search, test)), settings, tmp_path / str(workers), workers=workers)
        assert contents(tmp_path / "1") == contents(tmp_path / "2")
        for split, listed in (("search", search), ("test", test)):
            clips = read_manifest(tmp_path / "1", split)
            assert {clip.clip_id for clip in clips} < set(listed)
            assert [clip.class_name for clip in clips] == ["Biking", "Diving"]

    def test_rejected_clips_are_replaced_from_their_list(self, ucf, lists, tmp_path):
        search = [f"v_Archery_g{number:02}_c01" for number in (1, 2, 3, 4)]
        test = ["v_Biking_g01_c01", "v_Biking_g02_c01"]
        settings = params(num_clips=2, search_clips=1)
        preprocess(data(ucf, **lists(search, test)), settings, tmp_path / "out", workers=1)
        assert ids(tmp_path / "out", "search") == ["v_Archery_g04_c01"]
        assert len(ids(tmp_path / "out", "test")) == 1

    def test_without_a_list_for_the_test_all_others_are(self, ucf, lists, tmp_path):
        search = ["v_Biking_g01_c01", "v_Diving_g01_c01"]
        preprocess(data(ucf, **lists(search)), params(search_clips=2), tmp_path / "out", workers=1)
        assert ids(tmp_path / "out", "search") == search
        assert len(ids(tmp_path / "out", "test")) == 7

    def test_a_group_that_lists_divide_is_an_error_before_any_work(self, ucf, lists, tmp_path):
        root = tmp_path / "raw"
        shutil.copytree(ucf, root)
        shutil.copy(root / "Biking/v_Biking_g01_c01.avi", root / "Biking/v_Biking_g01_c02.avi")
        named = lists(["v_Biking_g01_c01"], ["v_Diving_g01_c01", "v_Biking_g01_c02"])
        with pytest.raises(UserError, match=r"trainlist01.txt and .*testlist01.txt divide a group") as error:
            preprocess(data(root, **named), params(), tmp_path / "out", workers=1)
        assert "Biking/v_Biking_g01_c01.avi and Biking/v_Biking_g01_c02.avi" in str(error.value)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()

    def test_a_clip_in_both_lists_is_an_error(self, ucf, lists, tmp_path):
        named = lists(["v_Biking_g01_c01"], ["v_Diving_g01_c01", "v_Biking_g01_c01"])
        with pytest.raises(UserError, match="divide a group"):
            preprocess(data(ucf, **named), params(), tmp_path / "out", workers=1)

    def test_a_copy_in_the_other_list_is_an_error(self, ucf, lists, tmp_path):
        root = tmp_path / "raw"
        shutil.copytree(ucf, root)
        shutil.copy(root / "Biking/v_Biking_g01_c01.avi", root / "Diving/v_Diving_g09_c01.avi")
        named = lists(["v_Biking_g01_c01"], ["v_Diving_g09_c01"])
        with pytest.raises(UserError, match="show the same footage"):
            preprocess(data(root, **named), params(), tmp_path / "out", workers=1)
        assert not (tmp_path / "out" / "manifest.csv").exists()

    def test_lists_that_leave_a_part_nothing_are_errors(self, ucf, lists, tmp_path):
        everything = [
            f"v_{name}_g{n:02}_c01" for name in ("Archery", "Biking", "Diving") for n in (1, 2, 3, 4)
        ]
        broken = [f"v_Archery_g{number:02}_c01" for number in (1, 2, 3)]
        for search, test, message in (
            (["v_Golf_g01_c01"], ["v_Biking_g01_c01"], "none of the clips listed in .*trainlist01.txt"),
            (["v_Biking_g01_c01"], ["v_Golf_g01_c01"], "none of the clips listed in .*testlist01.txt"),
            (everything, None, "leave some for the test"),
            (["v_Biking_g01_c01"], broken, "gives a clip for the test"),
        ):
            with pytest.raises(UserError, match=message):
                preprocess(data(ucf, **lists(search, test)), params(), tmp_path / "out", workers=1)


def test_windows_of_a_video_stay_together_and_count_as_clips(tmp_path):
    for number in range(4):
        encode(tmp_path / "raw" / f"{number}.avi", moving_frames(60, 48, 64, seed=number))
    small = {"conditioning_frames": 9, "generated_frames": 8, "windows_per_video": 3}
    preprocess(data(tmp_path / "raw"), params(search_clips=3, **small), tmp_path / "out", workers=1)
    clips = read_manifest(tmp_path / "out")
    assert ids(tmp_path / "out") == [f"{number}-w{window}" for number in range(4) for window in (1, 2, 3)]
    splits = defaultdict(set)
    for clip in clips:
        splits[clip.source].add((clip.group, clip.split))
        frames = read_clip_frames(tmp_path / "out", clip)
        assert len(frames) == clip.num_frames == 17
        assert (read_conditioning_frames(tmp_path / "out", clip) == frames[:9]).all()
    assert all(len(assigned) == 1 for assigned in splits.values())
    assert Counter(clip.split for clip in clips) == {"search": 3, "test": 9}

    preprocess(data(tmp_path / "raw"), params(5, search_clips=2, **small), tmp_path / "out", workers=1)
    clips = read_manifest(tmp_path / "out")
    assert sorted(Counter(clip.source for clip in clips).values()) == [2, 3]
    assert {path.name for path in (tmp_path / "out").glob("*.mp4")} == {clip.file_name for clip in clips}


def test_random_windows_are_those_of_the_seed(ucf, tmp_path):
    def starts(seed: int, workers: int) -> list[int]:
        small = params(seed=seed, window="random", conditioning_frames=5, generated_frames=8)
        preprocess(data(ucf), small, tmp_path, workers=workers)
        return [clip.window_start for clip in read_manifest(tmp_path)]

    assert starts(0, 1) == starts(0, 2) != starts(1, 1)


def test_the_bar_counts_what_can_be_had(ucf, tmp_path, capsys):
    preprocess(data(ucf), params(), tmp_path, workers=1)
    assert "9/9" in capsys.readouterr().err


def test_videos_of_several_shapes_have_their_own_sizes(tmp_path):
    encode(tmp_path / "raw" / "lying.avi", moving_frames(20, 96, 128))
    encode(tmp_path / "raw" / "standing.avi", moving_frames(20, 128, 96))
    small = params(size="256px", conditioning_frames=1, generated_frames=4)
    preprocess(data(tmp_path / "raw"), small, tmp_path / "out", workers=1)
    sizes = {clip.clip_id: (clip.height, clip.width) for clip in read_manifest(tmp_path / "out")}
    assert sizes == {"lying": (224, 288), "standing": (288, 224)}


def test_a_changed_caption_changes_the_manifest_and_no_clip(tmp_path):
    encode(tmp_path / "raw" / "a.avi", moving_frames(70, 48, 64))
    written = []
    for words in ("a dog", "a cat"):
        (tmp_path / "raw" / "a.txt").write_text(words)
        preprocess(data(tmp_path / "raw"), params(), tmp_path / "out", workers=1)
        written.append(contents(tmp_path / "out"))
    changed = {name for name in written[0] if written[0][name] != written[1][name]}
    assert changed == {"manifest.csv"}
