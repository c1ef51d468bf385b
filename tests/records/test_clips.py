import dataclasses

import pytest

from lora_tta.errors import UserError
from lora_tta.records.clips import Clip, read_manifest, write_manifest


def clip(class_name: str, number: int) -> Clip:
    return Clip(
        clip_id=f"v_{class_name}_g{number:02}_c01",
        class_name=class_name,
        caption=class_name.lower(),
        source=f"{class_name}/a, b.avi",
        source_frames=164,
        source_fps=29.97,
        window_start=3,
        window_end=68,
        fps=24,
        height=192,
        width=336,
        sha256="0" * 64,
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
    path.write_text(good.replace(",164,", ",many,"))
    with pytest.raises(UserError, match="damaged"):
        read_manifest(tmp_path)


def test_a_clip_is_immutable_and_names_its_file():
    with pytest.raises(dataclasses.FrozenInstanceError):
        clip("Archery", 1).caption = "other"
    assert clip("Archery", 1).file_name == "v_Archery_g01_c01.mp4"
