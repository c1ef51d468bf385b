from pathlib import Path

import pytest
from footage import CLIPS

from lora_tta.data.ucf101 import (
    caption_of,
    class_of,
    find_videos,
    group_of,
    read_split_list,
    select_listed,
)
from lora_tta.errors import UserError


@pytest.mark.parametrize(
    ("class_name", "caption"),
    [
        ("PlayingCello", "playing cello"),
        ("HandstandPushups", "handstand pushups"),
        ("YoYo", "yo yo"),
        ("TaiChi", "tai chi"),
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("BMXRiding", "bmx riding"),
        ("Archery", "archery"),
        ("h265_video", "h265 video"),
        ("my own-clips", "my own clips"),
    ],
)
def test_captions(class_name, caption):
    assert caption_of(class_name) == caption


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_ucf_layout(tmp_path):
    touch(tmp_path, "Biking/v_Biking_g01_c01.avi", "Archery/v_Archery_g02_c05.avi", "Archery/.v_x.avi")
    touch(tmp_path, "ucfTrainTestlist/testlist01.txt", "README.md", ".cache/old.avi")
    assert [(s.class_name, s.clip_id) for s in find_videos(tmp_path)] == [
        ("Archery", "v_Archery_g02_c05"),
        ("Biking", "v_Biking_g01_c01"),
    ]


def test_flat_folder_of_real_clips():
    assert {s.clip_id: s.class_name for s in find_videos(CLIPS)} == {
        "av1_video": "av1_video",
        "h265_video": "h265_video",
        "v_BoxingSpeedBag_g01_c01": "BoxingSpeedBag",
    }


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("HandstandPushups/v_HandStandPushups_g01_c01.avi", "HandstandPushups"),
        ("UCF-101/Archery/v_Archery_g01_c01.avi", "Archery"),
        ("everything/v_Archery_g01_c01.avi", "Archery"),
        ("surfing/2024-05-01.mp4", "surfing"),
        ("my_clip.mp4", "my_clip"),
    ],
)
def test_class_of_a_path(tmp_path, name, class_name):
    assert class_of(tmp_path / name, tmp_path) == class_name


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("Archery/v_Archery_g07_c02.avi", "g07"),
        ("v_BoxingSpeedBag_g25_c01.mp4", "g25"),
        ("v_Archery_g7_c2.avi", "g07"),
        ("surfing/g07_c02.mp4", None),
        ("surfing/v_Archery_g07.mp4", None),
    ],
)
def test_group_of_a_path(name, group):
    assert group_of(Path(name)) == group


def test_clip_ids_are_unique_file_names(tmp_path):
    touch(
        tmp_path, "a/one.mp4", "b/one.mp4", "b/one.avi", "b-one.avi", "two words (1).mp4", "b/b-one.avi.mp4"
    )
    ids = [source.clip_id for source in find_videos(tmp_path)]
    assert len(set(ids)) == 6
    assert ids == [source.clip_id for source in find_videos(tmp_path)]
    assert "one" in ids
    assert "two_words_1_.mp4"[:-4] in ids


def test_official_lists(tmp_path):
    train, test = tmp_path / "trainlist01.txt", tmp_path / "testlist01.txt"
    train.write_text("Archery/v_Archery_g08_c01.avi 3\r\n\r\nBiking/v_Biking_g08_c02.avi 11\r\n")
    test.write_text("Archery/v_Archery_g01_c01.avi\n")
    assert read_split_list(train) == ["Archery/v_Archery_g08_c01.avi", "Biking/v_Biking_g08_c02.avi"]
    assert read_split_list(test) == ["Archery/v_Archery_g01_c01.avi"]


@pytest.mark.parametrize(
    "line",
    [
        "Archery/v_Archery_g01_c01.avi 3",
        "Archery\\v_Archery_g01_c01.avi\t3",
        "3 Archery/v_Archery_g01_c01.avi",
        "v_Archery_g01_c01",
        "v_Archery_g01_c01,3",
        "\ufeffArchery/v_Archery_g01_c01.avi",
    ],
)
def test_all_forms_of_lists_that_circulate(tmp_path, line):
    touch(tmp_path, "Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g02_c01.avi")
    (tmp_path / "list.txt").write_text(f"{line}\r\n\r\n", encoding="utf-8")
    names = read_split_list(tmp_path / "list.txt")
    selected, missing = select_listed(find_videos(tmp_path), names)
    assert [source.clip_id for source in selected] == ["v_Archery_g01_c01"]
    assert not missing


def test_lists_of_own_videos_may_have_spaces_and_labels(tmp_path):
    (tmp_path / "list.txt").write_text("my cat/on the sofa.mp4 12\nother.mp4\n")
    assert read_split_list(tmp_path / "list.txt") == ["my cat/on the sofa.mp4", "other.mp4"]


def test_a_list_of_classes_is_no_list_of_clips(tmp_path):
    (tmp_path / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 ApplyLipstick\n")
    with pytest.raises(UserError, match="numbers classes"):
        read_split_list(tmp_path / "classInd.txt")


def test_empty_and_missing_lists_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_split_list(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="lists no clips"):
        read_split_list(tmp_path / "empty.txt")


def test_selection_by_list_tells_what_is_missing(tmp_path):
    touch(tmp_path, "Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g02_c01.avi")
    names = ["Archery/v_Archery_g02_c01.avi", "Archery/v_Archery_g03_c01.avi"]
    selected, missing = select_listed(find_videos(tmp_path), names)
    assert [source.clip_id for source in selected] == ["v_Archery_g02_c01"]
    assert missing == ["Archery/v_Archery_g03_c01.avi"]
