import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from footage import CLIPS, encode, moving_frames
from marked import clip_format

from lora_tta.data.rejection import Reason, Rejection
from lora_tta.data.transcode import ClipFormat, transcode
from lora_tta.data.ucf101 import Source
from lora_tta.data.video import read_video
from lora_tta.records.clips import Cut

FORMAT = clip_format(96, 128)
FILM_RATE = Fraction(30000, 1001)


def run(path: Path, output: Path, clip_format: ClipFormat = FORMAT) -> Cut | Rejection:
    """What becomes of a video that gives one clip at most."""
    output.mkdir(exist_ok=True)
    result = transcode(Source(path, "PlayingCello", path.stem), path.parent, output, clip_format)
    return result[0] if isinstance(result, list) else result


def shown(output: Path, clip: Cut, source: np.ndarray) -> list[int]:
    """Which frame of the source each frame of the clip shows."""
    frames = read_video(output / clip.file_name).astype(np.float32)
    return [int(np.square(source - frame).mean(axis=(1, 2, 3)).argmin()) for frame in frames]


def test_a_clip_at_24_fps_keeps_every_frame(tmp_path):
    source = moving_frames(65)
    clip = run(encode(tmp_path / "v.avi", source), tmp_path / "out")
    assert shown(tmp_path / "out", clip, source) == list(range(65))
    assert (clip.source_frames, clip.source_fps, clip.window_start, clip.window_end) == (65, 24.0, 0, 65)
    assert (clip.source, clip.caption, clip.fps, clip.height, clip.width) == (
        "v.avi",
        "playing cello",
        24,
        96,
        128,
    )
    assert clip.sha256 == hashlib.sha256((tmp_path / "out" / "v.mp4").read_bytes()).hexdigest()


@pytest.mark.parametrize(("fps", "num_frames"), [(25, 67), (FILM_RATE, 81), (60, 161)])
def test_higher_rates_drop_frames_and_show_none_before_its_time(tmp_path, fps, num_frames):
    source = moving_frames(num_frames)
    clip = run(encode(tmp_path / "v.avi", source, fps), tmp_path / "out")
    millisecond = Fraction(1, 1000)
    expected = [int((Fraction(k, 24) + millisecond) * Fraction(fps)) for k in range(65)]
    assert shown(tmp_path / "out", clip, source) == expected
    assert clip.source_fps == pytest.approx(float(fps), abs=1e-3)


def test_lower_rates_repeat_frames(tmp_path):
    source = moving_frames(40)
    clip = run(encode(tmp_path / "v.mp4", source, fps=12), tmp_path / "out")
    assert shown(tmp_path / "out", clip, source) == [k // 2 for k in range(65)]


def test_matroska_times_in_milliseconds_neither_drop_nor_repeat(tmp_path):
    source = moving_frames(70)
    clip = run(encode(tmp_path / "v.mkv", source), tmp_path / "out")
    assert shown(tmp_path / "out", clip, source) == list(range(65))


def test_uneven_times_that_start_late(tmp_path):
    """Frame n is shown from n/24 s, but frames 10-19 were never recorded: frame 9 stays on."""
    source, kept = moving_frames(90), [*range(10), *range(20, 90)]
    times = [Fraction(5) + Fraction(n, 24) for n in kept]
    clip = run(encode(tmp_path / "v.mkv", source[kept], times=times), tmp_path / "out")
    assert shown(tmp_path / "out", clip, source) == [9 if 10 <= k < 20 else k for k in range(65)]


def test_b_frames_are_shown_in_order(tmp_path):
    source = moving_frames(70)
    path = encode(tmp_path / "v.avi", source, options={"bf": "2", "qmin": "2", "qmax": "2"})
    assert shown(tmp_path / "out", run(path, tmp_path / "out"), source) == list(range(65))


def test_the_middle_window(tmp_path):
    source = moving_frames(95)
    path = encode(tmp_path / "v.avi", source)
    clip = run(path, tmp_path / "out", clip_format(96, 128, "middle"))
    assert (clip.window_start, clip.window_end) == (15, 80)
    assert shown(tmp_path / "out", clip, source) == list(range(15, 80))


@pytest.mark.parametrize("known", [1, 9, 17, 33, 49])
def test_the_future_leaves_no_trace_in_the_conditioning_frames(tmp_path, known):
    calm = moving_frames(65)
    noisy = calm.copy()
    noisy[known:] = np.random.default_rng(0).integers(0, 256, noisy[known:].shape, dtype=np.uint8)
    for name, frames in (("calm", calm), ("noisy", noisy)):
        clip = run(
            encode(tmp_path / f"{name}.avi", frames), tmp_path / "out", clip_format(96, 128, known=known)
        )
        assert clip.conditioning_frames == known
    calm, noisy = (read_video(tmp_path / "out" / f"{name}.mp4") for name in ("calm", "noisy"))
    assert (calm[:known] == noisy[:known]).all()
    assert (calm[known:] != noisy[known:]).any()


@pytest.mark.parametrize(("stride", "starts"), [(None, [0, 17, 34]), (5, [0, 5, 10]), (30, [0, 30, 60])])
def test_several_windows_of_a_video(tmp_path, stride, starts):
    source = moving_frames(90)
    path = encode(tmp_path / "v.avi", source)
    several = clip_format(96, 128, known=9, length=17, count=3, stride=stride)
    (tmp_path / "out").mkdir()
    clips = transcode(Source(path, "PlayingCello", "v"), tmp_path, tmp_path / "out", several)
    assert [(clip.clip_id, clip.window_start, clip.window_end) for clip in clips] == [
        (f"v-w{number}", start, start + 17) for number, start in enumerate(starts, start=1)
    ]
    for clip in clips:
        assert clip.conditioning_frames == 9
        seen = shown(tmp_path / "out", clip, source)
        assert seen == list(range(clip.window_start, clip.window_end))


def test_a_video_gives_all_its_windows_or_none(tmp_path):
    """Its second window is damaged: the first is not left behind."""
    path = encode(tmp_path / "v.mp4", moving_frames(160), codec="libx264", options={"g": "200", "bf": "0"})
    with av.open(str(path)) as container:
        position, size = [(p.pos, p.size) for p in container.demux(video=0) if p.size][100]
    data = path.read_bytes()
    noise = np.random.default_rng(0).bytes(size - 8)
    path.write_bytes(data[: position + 8] + noise + data[position + size :])
    assert isinstance(run(path, tmp_path / "out"), Cut)
    (tmp_path / "out" / "v.mp4").unlink()
    assert run(path, tmp_path / "out", clip_format(96, 128, count=2)).reason == Reason.UNREADABLE
    assert not any((tmp_path / "out").iterdir())


def test_a_window_in_which_nothing_moves_is_taken_where_another_moves(tmp_path):
    source = np.concatenate([moving_frames(1).repeat(20, axis=0), moving_frames(20)])
    path = encode(tmp_path / "v.mkv", source, codec="ffv1", options={})
    (tmp_path / "out").mkdir()
    halves = clip_format(96, 128, known=9, length=17, count=2)
    assert len(transcode(Source(path, "a", "v"), tmp_path, tmp_path / "out", halves)) == 2


@pytest.mark.parametrize(
    ("height", "width", "pixel_aspect", "turn", "size"),
    [
        (96, 128, 1, 0, (224, 288)),
        (128, 96, 1, 0, (288, 224)),
        (96, 128, Fraction(4, 3), 0, (192, 336)),  # anamorphic: shown as 16:9
        (96, 128, 1, 90, (288, 224)),  # lies in the file, stands upright
    ],
)
def test_the_size_is_that_of_the_shape_in_which_a_video_is_shown(
    tmp_path, height, width, pixel_aspect, turn, size
):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
        if turn:
            stream.set_display_rotation(turn)
        for frame in moving_frames(20, height, width):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    clip = run(path, tmp_path / "out", replace(clip_format(0, 0, length=5, known=1), size="256px"))
    assert (clip.height, clip.width) == size
    assert read_video(tmp_path / "out" / clip.file_name).shape == (5, *size, 3)


def test_the_clip_is_visually_lossless(tmp_path):
    """Real footage already of the clip's size: the clip differs from it by its coding alone."""
    path = CLIPS / "v_BoxingSpeedBag_g01_c01.mp4"
    run(path, tmp_path / "out", clip_format(192, 336))
    error = read_video(path).astype(float) - read_video(tmp_path / "out" / f"{path.stem}.mp4")
    assert (10 * np.log10(255**2 / np.square(error).mean(axis=(1, 2, 3))) > 42).all()


def test_the_hash_of_the_frames_knows_the_same_pictures_in_any_file(tmp_path):
    """Other containers, lossless codecs, names and frames after the window; not another frame in it."""
    lossless = {"codec": "ffv1", "options": {}}
    source = moving_frames(70)
    first = run(encode(tmp_path / "a.avi", source, **lossless), tmp_path / "out")
    other_end = source.copy()
    other_end[66:] = 0
    other_frame = source.copy()
    other_frame[64, :8, :8] = 0
    shutil.copy(tmp_path / "a.avi", tmp_path / "b.mkv")
    same = [
        tmp_path / "b.mkv",
        encode(tmp_path / "c.mkv", source, **lossless),
        encode(tmp_path / "d.mkv", source, codec="libx264", options={"qp": "0"}),
        encode(tmp_path / "e.avi", other_end, **lossless),
    ]
    assert {run(path, tmp_path / "out").frames_sha256 for path in same} == {first.frames_sha256}
    other = run(encode(tmp_path / "f.avi", other_frame, **lossless), tmp_path / "out")
    assert other.frames_sha256 != first.frames_sha256


def test_rotated_video_is_turned_upright(tmp_path):
    path = tmp_path / "v.mp4"
    frames = np.zeros((65, 32, 64, 3), np.uint8)
    frames[:, :, :32] = 220  # left half white; shown after a quarter turn to the left: lower half white
    frames[1:, 0, 0] = 90  # something moves
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(90)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    clip = run(path, tmp_path / "out", clip_format(64, 32))
    upright = read_video(tmp_path / "out" / clip.file_name)[0]
    assert upright.shape == (64, 32, 3)
    assert upright[:24].max() < 30
    assert upright[40:, 2:].min() > 190


def test_intact_but_too_short(tmp_path):
    for path in (CLIPS / "h265_video.mp4", encode(tmp_path / "v.avi", moving_frames(66), fps=25)):
        assert run(path, tmp_path / "out").reason == Reason.TOO_SHORT
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("suffix", ["avi", "mp4", "mkv"])
@pytest.mark.parametrize("kept", [0.05, 0.4, 0.9])
def test_cut_files_are_truncated_even_where_65_frames_are_left(tmp_path, suffix, kept):
    path = encode(tmp_path / f"v.{suffix}", moving_frames(160))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert run(path, tmp_path / "out").reason == Reason.TRUNCATED


def test_a_streamable_mp4_cut_anywhere_is_truncated(tmp_path):
    options = {"movflags": "+faststart"}
    path = encode(tmp_path / "v.mp4", moving_frames(160, 32, 48), container_options=options)
    data = path.read_bytes()
    for kept in (len(data) // 2, len(data) - 20):
        path.write_bytes(data[:kept])
        assert run(path, tmp_path / "out").reason == Reason.TRUNCATED


@pytest.mark.parametrize("data", [b"", b"<html>404 Not Found</html>", bytes(5000)])
def test_what_is_no_video_is_unreadable(tmp_path, data):
    path = tmp_path / "v.avi"
    path.write_bytes(data)
    rejection = run(path, tmp_path / "out")
    assert rejection == Rejection("v.avi", Reason.UNREADABLE, "Invalid data found when processing input")


def test_damage_within_the_window_is_unreadable_and_after_it_harmless(tmp_path):
    path = encode(tmp_path / "v.mp4", moving_frames(160), codec="libx264", options={"g": "200", "bf": "0"})
    with av.open(str(path)) as container:
        positions = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = path.read_bytes()
    for frame, expected in ((30, Rejection), (120, Cut)):
        position, size = positions[frame]
        noise = np.random.default_rng(0).bytes(size - 8)
        path.write_bytes(data[: position + 8] + noise + data[position + size :])
        result = run(path, tmp_path / "out")
        assert isinstance(result, expected)
        if expected is Rejection:
            assert result.reason == Reason.UNREADABLE


def test_sound_alone_has_no_video(tmp_path):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert run(path, tmp_path / "out").reason == Reason.NO_VIDEO


def test_an_output_that_cannot_be_written_is_an_error_not_a_rejection(tmp_path):
    path = encode(tmp_path / "v.avi", moving_frames(65))
    (tmp_path / "taken").touch()
    with pytest.raises(OSError, match="File exists"):
        transcode(Source(path, "a", "v"), tmp_path, tmp_path / "taken", FORMAT)


def test_workers_import_nothing_heavy():
    code = (
        "import sys, lora_tta.data.transcode as t; print({'torch', 'pydantic', 'pandas'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"


def test_a_whole_avi_may_leave_out_frames_that_repeat_the_one_before(tmp_path):
    source = moving_frames(100)
    source[40:44] = source[39]
    kept = [n for n in range(100) if not 40 <= n < 44]
    path = encode(tmp_path / "v.avi", source[kept], frame_numbers=kept)
    clip = run(path, tmp_path / "out")
    expected = [39 if 40 <= k < 44 else k for k in range(65)]
    assert shown(tmp_path / "out", clip, source) == expected
