import dataclasses

import pytest

from lora_tta.errors import UserError
from lora_tta.records.clips import Clip, Split, read_manifest, write_manifest


def clip(class_name: str, number: int, split: Split = "test") -> Clip:
    return Clip(
        clip_id=f"v_{class_name}_g{number:02}_c01",
        class_name=class_name,
        caption=class_name.lower(),
        source=f"{class_name}/a, b.avi",
        source_frames=164,
        source_fps=29.97,
        window_start=3,
        window_end=68,
        conditioning_frames=33,
        fps=24,
        height=192,
        width=336,
        sha256="0" * 64,
        frames_sha256="1" * 64,
        group=f"{class_name}/g{number:02}",
        split=split,
    )


def test_a_manifest_reads_back_as_written(tmp_path):
    write_manifest(tmp_path, [clip("Archery", 1)])
    assert read_manifest(tmp_path) == [clip("Archery", 1)]


def test_first_rows_are_spread_over_classes_whatever_the_order_given(tmp_path):
    clips = [clip("Archery", n) for n in (3, 1, 2)] + [
        clip("Biking", 2),
        clip("Biking", 1),
        clip("Diving", 9),
    ]
    orders = []
    for given in (clips, clips[::-1]):
        write_manifest(tmp_path, given)
        orders.append([(row.class_name, row.clip_id[-7:-4]) for row in read_manifest(tmp_path)])
    assert orders[0] == orders[1]
    assert [name for name, _ in orders[0]] == ["Archery", "Biking", "Diving", "Archery", "Biking", "Archery"]
    assert orders[0][0] == ("Archery", "g01")


def test_each_split_is_read_alone_in_the_manifests_order_with_its_classes_interleaved(tmp_path):
    splits: dict[tuple[str, int], Split] = {
        ("Archery", 1): "test",
        ("Archery", 2): "search",
        ("Archery", 3): "search",
        ("Archery", 4): "test",
        ("Biking", 1): "test",
        ("Biking", 2): "test",
        ("Biking", 3): "search",
    }
    write_manifest(tmp_path, [clip(*key, split) for key, split in splits.items()])
    read = {
        part: [(row.class_name, int(row.clip_id[-6:-4])) for row in read_manifest(tmp_path, part)]
        for part in (None, "search", "test")
    }
    assert read["search"] == [("Archery", 2), ("Biking", 3), ("Archery", 3)]
    assert read["test"] == [("Archery", 1), ("Biking", 1), ("Archery", 4), ("Biking", 2)]
    assert read[None] == read["search"] + read["test"]


def test_a_split_without_clips_is_empty(tmp_path):
    write_manifest(tmp_path, [clip("Archery", 1)])
    assert read_manifest(tmp_path, "search") == []


def test_no_manifest_says_to_run_preprocess(tmp_path):
    with pytest.raises(UserError, match="run preprocess"):
        read_manifest(tmp_path)


def test_a_manifest_with_other_columns_or_values_is_refused(tmp_path):
    write_manifest(tmp_path, [clip("Archery", 1)])
    path = tmp_path / "manifest.csv"
    good = path.read_text()
    path.write_text(good.replace("class_name", "label"))
    with pytest.raises(UserError, match="columns"):
        read_manifest(tmp_path)
    for damaged in (good.replace(",164,", ",many,"), good.replace(",test\n", ",validation\n")):
        assert damaged != good
        path.write_text(damaged)
        for split in (None, "search"):
            with pytest.raises(UserError, match="damaged"):
                read_manifest(tmp_path, split)


def test_a_clip_is_immutable_and_names_its_file():
    with pytest.raises(dataclasses.FrozenInstanceError):
        clip("Archery", 1).caption = "other"
    assert clip("Archery", 1).file_name == "v_Archery_g01_c01.mp4"


def test_a_manifest_cut_short_is_noticed_wherever_it_was_cut(tmp_path):
    clips = [clip("Archery", number) for number in (1, 2, 3)]
    write_manifest(tmp_path, clips)
    for each in clips:
        (tmp_path / each.file_name).touch()
    path = tmp_path / "manifest.csv"
    whole = path.read_text()
    assert read_manifest(tmp_path) == clips
    for end in range(len(whole) - 1):
        path.write_text(whole[:end])
        with pytest.raises(UserError, match=r"manifest\.csv.*(run preprocess again|or preprocess again)"):
            read_manifest(tmp_path)


@pytest.mark.parametrize("clip_id", ["../outside", "/outside", "below/it"])
def test_no_clip_lies_outside_of_the_manifests_folder(tmp_path, clip_id):
    write_manifest(tmp_path, [dataclasses.replace(clip("Archery", 1), clip_id=clip_id)])
    with pytest.raises(UserError, match="lies outside of its folder"):
        read_manifest(tmp_path)


def test_two_clips_of_one_name_are_refused(tmp_path):
    write_manifest(tmp_path, [clip("Archery", 1), clip("Archery", 1)])
    with pytest.raises(UserError, match="two rows have the same clip_id"):
        read_manifest(tmp_path)
