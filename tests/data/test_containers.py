import pytest
from footage import CLIPS, encode, moving_frames

from lora_tta.data.containers import is_cut_short


@pytest.fixture(params=["avi", "mp4", "mkv"])
def video(request, tmp_path):
    return encode(tmp_path / f"a.{request.param}", moving_frames(20))


def test_whole_files_are_whole(video):
    assert not is_cut_short(video)
    assert not any(is_cut_short(path) for path in CLIPS.iterdir())


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_cut_files_are_cut_short(video, kept):
    data = video.read_bytes()
    video.write_bytes(data[: int(kept * len(data))])
    assert is_cut_short(video)


@pytest.mark.parametrize("data", [b"", b"no video at all, just text", b"RIFF", b"\x00" * 100])
def test_other_files_are_not(tmp_path, data):
    (tmp_path / "a.avi").write_bytes(data)
    assert not is_cut_short(tmp_path / "a.avi")
