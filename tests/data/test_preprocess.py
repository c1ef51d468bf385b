import hashlib
import json
import shutil

import pytest
from footage import CLIPS, encode, make_ucf_folder, moving_frames

from lora_tta.config import DataParams, PreprocessParams
from lora_tta.data.preprocess import preprocess
from lora_tta.data.video import read_clip_frames, read_conditioning_frames
from lora_tta.errors import UserError
from lora_tta.records.clips import read_manifest


def params(num_clips=None, seed=0) -> PreprocessParams:
    return PreprocessParams(height=32, width=48, fps=24, window="first", num_clips=num_clips, seed=seed)


def data(root, split_list=None) -> DataParams:
    return DataParams(root=root, split_list=split_list)


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
    assert [clip.class_name for clip in clips[:3]] == ["Archery", "Biking", "Diving"]
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
    assert printed == "preprocess: 9 clips; rejected: 1 too_short, 1 truncated, 1 unreadable\n"


def test_real_files_of_several_codecs(tmp_path):
    summary = preprocess(data(CLIPS), params(), tmp_path, workers=1)
    assert {clip.clip_id for clip in read_manifest(tmp_path)} == {"av1_video", "v_BoxingSpeedBag_g01_c01"}
    assert summary.rejected == {"too_short": 1}


def test_the_number_of_workers_changes_nothing(ucf, tmp_path):
    for workers in (1, 2):
        preprocess(data(ucf), params(num_clips=5), tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("seed", range(3))
def test_rejected_clips_are_replaced_within_their_class(ucf, tmp_path, seed):
    preprocess(data(ucf), params(num_clips=3, seed=seed), tmp_path, workers=1)
    clips = read_manifest(tmp_path)
    assert [clip.class_name for clip in clips] == ["Archery", "Biking", "Diving"]
    assert clips[0].clip_id == "v_Archery_g04_c01"


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
