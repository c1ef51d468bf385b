import av
import numpy as np
import pytest
from av.video.frame import PictureType
from footage import CLIPS, encode, moving_frames

from lora_tta.data.video import read_video, write_video
from lora_tta.errors import UserError


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


def test_what_is_written_reads_back(tmp_path):
    frames = moving_frames(10)
    write_video(tmp_path / "a.mp4", frames, fps=24)
    decoded = read_video(tmp_path / "a.mp4")
    assert decoded.shape == frames.shape
    assert decoded.dtype == np.uint8
    assert all(psnr(a, b) > 42 for a, b in zip(frames, decoded, strict=True))


@pytest.mark.parametrize("colour", [(200, 60, 30), (255, 255, 255), (0, 0, 0), (20, 90, 220)])
def test_colours_survive(tmp_path, colour):
    write_video(tmp_path / "a.mp4", np.full((2, 32, 48, 3), colour, np.uint8), fps=24)
    assert np.abs(read_video(tmp_path / "a.mp4").astype(int) - colour).max() <= 2


def test_colours_are_not_shifted_sideways(tmp_path):
    """A wrong chroma site moves red against green by half a pixel: mirrored frames would then differ."""
    wave = 128 + 100 * np.sin(np.arange(128) / 5)
    frame = np.stack([np.tile(wave, (32, 1)), np.full((32, 128), 128), np.full((32, 128), 128)], axis=-1)
    write_video(tmp_path / "a.mp4", frame.round().astype(np.uint8)[None], fps=24)
    decoded = read_video(tmp_path / "a.mp4")[0, :, 8:-8, 0].astype(float)
    left, right = frame[:, 7:-9, 0], frame[:, 9:-7, 0]
    assert np.abs(decoded - left).mean() == pytest.approx(np.abs(decoded - right).mean(), rel=0.1)


def test_the_future_leaves_no_trace_in_the_conditioning_frames(tmp_path):
    """The same 33 frames, then either calm or white noise: the first 33 decode to the same bits."""
    calm = moving_frames(65)
    noisy = calm.copy()
    noisy[33:] = np.random.default_rng(0).integers(0, 256, noisy[33:].shape, dtype=np.uint8)
    heads, packets = [], []
    for name, frames in (("calm.mp4", calm), ("noisy.mp4", noisy), ("alone.mp4", calm[:33])):
        write_video(tmp_path / name, frames, fps=24)
        heads.append(read_video(tmp_path / name, 33))
        with av.open(str(tmp_path / name)) as container:
            packets.append([bytes(packet) for packet in container.demux(video=0)][:33])
    assert (heads[0] == heads[1]).all()
    assert (heads[0] == heads[2]).all()
    assert packets[0] == packets[1] == packets[2]
    assert (read_video(tmp_path / "calm.mp4")[33:] != read_video(tmp_path / "noisy.mp4")[33:]).any()


def test_the_conditioning_frames_are_a_closed_group_of_pictures(tmp_path):
    write_video(tmp_path / "a.mp4", moving_frames(65), fps=24)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [index for index, frame in enumerate(frames) if frame.key_frame] == [0, 33]
    assert {frame.pict_type for frame in frames} == {PictureType.I, PictureType.P}


def test_decoding_the_head_gives_the_head_of_the_whole(tmp_path):
    write_video(tmp_path / "a.mp4", moving_frames(40), fps=24)
    assert (read_video(tmp_path / "a.mp4", 33) == read_video(tmp_path / "a.mp4")[:33]).all()


def test_files_are_what_browsers_play(tmp_path):
    write_video(tmp_path / "a.mp4", moving_frames(5), fps=24)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 24)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_the_same_frames_make_the_same_file(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, moving_frames(40), fps=24)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="even size"):
        write_video(tmp_path / "a.mp4", moving_frames(3, 33, 48), fps=24)
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "a.mp4", moving_frames(3).astype(np.float32), fps=24)
    assert list(tmp_path.iterdir()) == []


def test_missing_short_and_broken_files_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="not found"):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(UserError, match="10 frames, 33 are needed"):
        read_video(CLIPS / "h265_video.mp4", 33)
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be decoded"):
        read_video(tmp_path / "broken.mp4")


def test_reads_mpeg4_avi(tmp_path):
    frames = moving_frames(6)
    assert psnr(read_video(encode(tmp_path / "a.avi", frames)), frames) > 30
