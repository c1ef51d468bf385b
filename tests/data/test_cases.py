"""Files that people have and players play: containers, times, orientation, colours."""

import random
import re
import shutil
from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path

import av
import numpy as np
import pytest
from footage import encode, moving_frames
from marked import (
    BLUE,
    CASES,
    CORNERS,
    GREEN,
    HEIGHT,
    RED,
    WIDTH,
    YELLOW,
    clip_format,
    corners,
    marked_frames,
    numbers,
    read_clip,
)

from lora_tta.data.rejection import Reason, Rejection
from lora_tta.data.transcode import transcode
from lora_tta.data.ucf101 import Source

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "videos.md"
FROM_25_FPS = [*range(24), *range(25, 49), *range(50, 67)]
X264 = {"codec": "libx264", "options": {"crf": "18"}}
SHORT_GOPS = {"codec": "libx264", "options": {"crf": "18", "g": "20", "bf": "2"}}


def rejected(path: Path, output: Path) -> Rejection:
    output.mkdir(exist_ok=True)
    result = transcode(Source(path, "a", "a"), path.parent, output, clip_format(HEIGHT, WIDTH))
    assert isinstance(result, Rejection)
    return result


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h264_default.avi", FROM_25_FPS),
        ("h264_bf1.avi", FROM_25_FPS),
        ("ps_concat_50_60.mpg", FROM_25_FPS),
        ("clip_3gp.3gp", FROM_25_FPS),
        ("clip_MTS.MTS", FROM_25_FPS),
        ("trailing.mkv", list(range(65))),
        ("trailing_zeros.webm", list(range(65))),
    ],
)
def test_frames_and_colours_are_those_that_a_player_shows(tmp_path, name, expected):
    frames = read_clip(CASES / name, tmp_path)
    assert numbers(frames) == expected
    assert np.abs(corners(frames) - CORNERS).max() < 6


def test_one_picture_is_no_video_however_long_it_lasts(tmp_path):
    assert rejected(CASES / "one_frame_10s.mp4", tmp_path).reason == Reason.NO_VIDEO


def test_pictures_that_are_all_alike_are_no_video(tmp_path):
    still = np.repeat(marked_frames(range(1)), 80, axis=0)
    assert rejected(encode(tmp_path / "a.mp4", still, **X264), tmp_path / "out").reason == Reason.NO_VIDEO
    title = np.concatenate([still, marked_frames(range(40))])
    assert set(numbers(read_clip(encode(tmp_path / "b.mp4", title, **X264), tmp_path / "out"))) == {0}


class TestTimes:
    """Continuous, in order, and without needless repeats."""

    @pytest.mark.parametrize("suffix", ["ts", "mpg", "mkv", "webm", "h264"])
    def test_recordings_joined_as_files_are_one(self, tmp_path, suffix):
        """The middle window reaches over the joint."""
        codec = {"mpg": {"codec": "mpeg2video"}, "webm": {"codec": "libvpx"}}.get(suffix, X264)
        path = encode(tmp_path / f"a.{suffix}", marked_frames(range(60)), **codec, fps=24)
        joined = tmp_path / f"joined.{suffix}"
        joined.write_bytes(2 * path.read_bytes())
        shown = numbers(read_clip(joined, tmp_path / "out", "middle"))
        before = [n for n in shown[:34] if n > 20]
        assert before == list(range(before[0], 60))
        after = shown[len(before) :]
        assert after == list(range(after[0], after[0] + len(after)))
        assert after[0] < 3

    def test_a_stream_without_times_has_b_frames_in_order(self, tmp_path):
        path = encode(tmp_path / "a.h264", marked_frames(range(80)), fps=25, **X264)
        assert numbers(read_clip(path, tmp_path / "out")) == FROM_25_FPS

    @pytest.mark.parametrize("suffix", ["mp4", "mkv"])
    @pytest.mark.parametrize("fps", ["23.976", "24", "25", "29.97", "30", "50", "60"])
    def test_each_rate_shows_the_pictures_that_the_documentation_lists(self, tmp_path, fps, suffix):
        listed = re.search(rf"^\| {re.escape(fps)} \| ([\d -]+\d)", DOCUMENTATION.read_text(), re.MULTILINE)[
            1
        ]
        ends = [[int(number) for number in run.split("-")] for run in listed.split()]
        expected = [number for run in ends for number in range(run[0], run[-1] + 1)]
        exact = {"23.976": Fraction(24000, 1001), "29.97": Fraction(30000, 1001)}.get(fps, Fraction(fps))
        num_frames = int(65 * exact / 24) + 2
        path = encode(tmp_path / f"a.{suffix}", marked_frames(range(num_frames)), fps=exact, **X264)
        shown = numbers(read_clip(path, tmp_path / "out"))
        assert len(expected) >= 13
        assert shown[: len(expected)] == expected
        assert len(set(shown)) == 65
        assert all(abs(number - k * exact / 24) <= 1 for k, number in enumerate(shown))

    @pytest.mark.parametrize("suffix", ["mp4", "mkv"])
    @pytest.mark.parametrize("fps", [Fraction(24001, 1000)])
    def test_rates_next_to_24_keep_every_frame(self, tmp_path, suffix, fps):
        path = encode(tmp_path / f"a.{suffix}", marked_frames(range(66)), fps=fps, **X264)
        assert numbers(read_clip(path, tmp_path / "out")) == list(range(65))

    @pytest.mark.parametrize("fps", [24, 25])
    def test_jitter_neither_drops_nor_repeats(self, tmp_path, fps):
        jitter = np.random.default_rng(0).integers(-8, 8, 80)
        times = [Fraction(n, fps) + Fraction(int(jitter[n]) + 8, 1000) for n in range(80)]
        path = encode(tmp_path / "a.mkv", marked_frames(range(80)), times=times, **X264)
        shown = numbers(read_clip(path, tmp_path / "out"))
        assert all(later - earlier in (1, 2) for earlier, later in pairwise(shown))
        assert np.abs(np.array(shown) - (list(range(65)) if fps == 24 else FROM_25_FPS)).max() <= 1

    @pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
    def test_a_recording_that_starts_amid_a_group_of_pictures_starts_at_the_next(self, tmp_path, codec):
        options = {"g": "20", "bf": "2"}
        path = encode(tmp_path / "a.ts", marked_frames(range(120)), codec=codec, options=options)
        data = path.read_bytes()
        path.write_bytes(data[len(data) // 10 // 188 * 188 :])
        frames = read_clip(path, tmp_path / "out")
        first = numbers(frames)[0]
        assert first > 5
        assert numbers(frames) == list(range(first, first + 65))
        assert np.abs(corners(frames) - CORNERS).max() < 6

    def test_an_edit_list_cuts_the_beginning(self, tmp_path):
        """Packets before the start of the edit are there for decoding only."""
        path = encode(tmp_path / "a.mp4", marked_frames(range(90)), **SHORT_GOPS)
        data = bytearray(path.read_bytes())
        place = data.index(b"elst") + 16
        with av.open(str(path)) as container:
            ticks = container.streams.video[0].time_base.denominator
        start = int.from_bytes(data[place : place + 4]) + 10 * ticks // 24
        data[place : place + 4] = start.to_bytes(4)
        path.write_bytes(data)
        assert numbers(read_clip(path, tmp_path / "out")) == list(range(10, 75))


class TestStream:
    """The one that a player shows."""

    def write(self, path: Path, covers: list[bool], sizes: list[int]) -> Path:
        """The last stream has marked frames and is the default, others show something else."""
        with av.open(str(path), "w") as container:
            streams = []
            for stream_number, (cover, size) in enumerate(zip(covers, sizes, strict=True)):
                stream = container.add_stream("mjpeg" if cover else "libx264", rate=24)
                stream.width, stream.height = WIDTH * size, HEIGHT * size
                stream.pix_fmt = "yuvj420p" if cover else "yuv420p"
                if cover:
                    stream.disposition = av.stream.Disposition.attached_pic
                elif stream_number == len(sizes) - 1:
                    stream.disposition = av.stream.Disposition.default
                streams.append(stream)
            for number, frame in enumerate(marked_frames(range(70))):
                for stream, cover, size in zip(streams, covers, sizes, strict=True):
                    if cover and number:
                        continue
                    picture = np.zeros_like(frame) if size == 1 and not cover else frame
                    large = picture.repeat(size, axis=0).repeat(size, axis=1)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(large)))
            for stream in streams:
                container.mux(stream.encode())
        return path

    def test_a_cover_is_no_video(self, tmp_path):
        path = self.write(tmp_path / "a.mp4", [True, False], [1, 2])
        assert numbers(read_clip(path, tmp_path / "out")) == list(range(65))

    @pytest.mark.parametrize("suffix", ["ts", "mp4", "mkv"])
    def test_the_better_of_two_is_taken(self, tmp_path, suffix):
        """A transport stream has no default: the larger one."""
        path = self.write(tmp_path / f"a.{suffix}", [False, False], [1, 2])
        assert numbers(read_clip(path, tmp_path / "out")) == list(range(65))


class TestPicture:
    """Upright, in its shape and in its colours."""

    def test_a_mirrored_picture(self, tmp_path):
        shown = corners(read_clip(CASES / "mirror_h.mp4", tmp_path))
        assert np.abs(shown - [GREEN, RED, YELLOW, BLUE]).max() < 6

    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize("signs", product([1, -1], repeat=2))
    def test_all_eight_orientations(self, tmp_path, transposed, signs):
        """A stored point (x, y) is shown at (a x + c y, b x + d y)."""
        one, other = (sign << 16 for sign in signs)
        a, b, c, d = (0, one, other, 0) if transposed else (one, 0, 0, other)
        data = (CASES / "mirror_h.mp4").read_bytes()
        place = data.index(b"tkhd") + 44
        matrix = b"".join(value.to_bytes(4, signed=True) for value in (a, b, 0, c, d, 0, 0, 0, 1 << 30))
        path = tmp_path / "a.mp4"
        path.write_bytes(data[:place] + matrix + data[place + 36 :])

        stored = {(-1, -1): RED, (1, -1): GREEN, (-1, 1): BLUE, (1, 1): YELLOW}
        expected = {
            ((a * x + c * y) >> 16, (b * x + d * y) >> 16): colour for (x, y), colour in stored.items()
        }
        shown = corners(read_clip(path, tmp_path / "out"))
        assert np.abs(shown - [expected[place] for place in stored]).max() < 8

    @pytest.mark.parametrize("name", ["hdr_pq.mp4", "hdr_hlg.mov"])
    def test_hdr_has_the_brightness_and_colours_of_bt709(self, tmp_path, name):
        frames = read_clip(CASES / name, tmp_path)
        assert numbers(frames) == list(range(65))
        lit = frames[63, HEIGHT // 2 - 4 : HEIGHT // 2 + 4, 8 : WIDTH // 2]
        assert abs(float(lit.mean()) - 235) < 8
        assert np.abs(corners(frames) - CORNERS).max() < (20 if "pq" in name else 45)

    def test_other_sizes_in_one_stream_are_scaled_to_the_first(self, tmp_path):
        small = marked_frames(range(40, 80))[:, ::2, ::2]
        parts = [
            encode(tmp_path / "a.ts", marked_frames(range(40)), **X264),
            encode(tmp_path / "b.ts", small, **X264),
        ]
        (tmp_path / "c.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
        frames = read_clip(tmp_path / "c.ts", tmp_path / "out")
        assert numbers(frames) == list(range(65))
        assert np.abs(corners(frames[64:]) - CORNERS).max() < 6

    def test_interlaced_pictures_have_no_combs(self, tmp_path):
        """Every second line is half a frame later; a bar that moves fast then has teeth."""
        bars = np.full((140, 96, 128, 3), 20, np.uint8)
        for number, bar in enumerate(bars):
            bar[:, number * 5 % 112 : number * 5 % 112 + 16] = 220
        woven = bars[::2].copy()
        woven[:, 1::2] = bars[1::2, 1::2]
        options = {"flags": "+ildct+ilme+qscale", "global_quality": "118"}
        path = encode(tmp_path / "a.mpg", woven, codec="mpeg2video", options=options)
        frames = read_clip(path, tmp_path / "out").astype(float)
        assert np.abs(np.diff(frames, axis=1)).max() < 40


@pytest.mark.parametrize("seed", range(12))
def test_damage_of_any_kind_gives_a_clip_or_a_reason(tmp_path, seed):
    """2,000 files of 30 containers have been tried likewise; these stand for them."""
    generator = random.Random(seed)
    for whole in sorted(CASES.iterdir()):
        data = bytearray(whole.read_bytes())
        places = [generator.randrange(len(data)) for _ in range(20)]
        match seed % 4:
            case 0:
                for place in places:
                    data[place] = generator.randrange(256)
            case 1:
                del data[places[0] :]
            case 2:
                data[places[0] : places[0] + 500] = b""
            case 3:
                data[places[0] : places[0]] = data[places[1] : places[1] + 500]
        path = tmp_path / whole.name
        path.write_bytes(data)
        source = Source(path, "a", "a")
        result = transcode(source, tmp_path, tmp_path, clip_format(32, 48))
        assert isinstance(result, list) or result.detail


class TestContent:
    """A file is a video if it decodes, whatever its name."""

    @pytest.mark.parametrize("name", ["clip.txt", "http:__a.b_c?d=%03d", "concat:a|b", "a.png", "%d.jpg"])
    def test_names_say_nothing(self, tmp_path, name):
        shutil.copy(CASES / "trailing.mkv", tmp_path / name)
        assert numbers(read_clip(tmp_path / name, tmp_path / "out")) == list(range(65))

    @pytest.mark.parametrize(
        "text",
        [
            "ffconcat version 1.0\nfile good.mkv\n",
            "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\ngood.mkv\n#EXT-X-ENDLIST\n",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
            "a=rtpmap:96 H264/90000\n",
        ],
    )
    @pytest.mark.parametrize("suffix", ["mp4", "m3u8", "ffconcat", "sdp"])
    def test_a_text_that_points_to_media_is_no_video(self, tmp_path, text, suffix):
        shutil.copy(CASES / "trailing.mkv", tmp_path / "good.mkv")
        (tmp_path / f"a.{suffix}").write_text(text)
        assert rejected(tmp_path / f"a.{suffix}", tmp_path / "out").reason == Reason.UNREADABLE

    @pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
    def test_an_archive_of_videos_is_no_video(self, tmp_path, kind):
        encode(tmp_path / "in" / "a.avi", moving_frames(80))
        path = Path(shutil.make_archive(str(tmp_path / "a"), kind, tmp_path / "in"))
        assert rejected(path, tmp_path / "out").reason == Reason.NO_VIDEO

    def test_a_cut_transport_stream_gives_the_frames_that_it_has(self, tmp_path):
        path = encode(tmp_path / "a.ts", moving_frames(160), **X264)
        path.write_bytes(path.read_bytes()[:-5000])
        read_clip(path, tmp_path / "out")
