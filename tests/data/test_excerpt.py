"""Parts of a video: the end and any place, as preprocessing would read them."""

import pytest
from footage import encode
from marked import HEIGHT, WIDTH, marked_frames, numbers

from lora_tta.data.excerpt import Excerpt, read_excerpt
from lora_tta.data.rejection import RejectedError

H264 = {"codec": "libx264", "options": {"crf": "18", "g": "20", "bf": "2"}}
KINDS = {
    "mp4": H264,
    "mkv": H264,
    "ts": H264,
    "avi": H264,
    "webm": {"codec": "libvpx", "options": {"crf": "10", "b": "1M", "g": "20", "deadline": "realtime"}},
    "mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2", "b": "4M"}},
}


def shown(excerpt: Excerpt) -> list[int]:
    return numbers(excerpt.pixels(0, len(excerpt.frames)))


@pytest.mark.parametrize("suffix", KINDS)
def test_the_end_and_any_place_show_the_frames_that_are_there(tmp_path, suffix):
    path = encode(tmp_path / f"a.{suffix}", marked_frames(range(150)), 24, **KINDS[suffix])
    end = read_excerpt(path, (HEIGHT, WIDTH), 24, 65)
    assert (shown(end), end.available) == (list(range(85, 150)), 150)
    middle = read_excerpt(path, (HEIGHT, WIDTH), 24, 33, start=70)
    assert shown(middle) == list(range(70, 103))
    assert len(read_excerpt(path, (HEIGHT, WIDTH), 24, 65, start=130).frames) == 20
    with pytest.raises(RejectedError):
        read_excerpt(path, (HEIGHT, WIDTH), 24, 65, start=151)


@pytest.mark.parametrize(("fps", "last"), [(25, 148), (30, 148), (60, 147), (12, 149)])
def test_the_end_of_a_video_at_another_rate(tmp_path, fps, last):
    """Frame k is the one that is shown at k / 24 s, so the very last one may be left out."""
    path = encode(tmp_path / "a.mp4", marked_frames(range(150)), fps, **H264)
    excerpt = read_excerpt(path, (HEIGHT, WIDTH), 24, 33)
    assert shown(excerpt)[-1] == last
    assert shown(excerpt) == shown(read_excerpt(path, (HEIGHT, WIDTH), 24, 33, start=excerpt.available - 33))


def test_decoding_starts_shortly_before(tmp_path, monkeypatch):
    """A damaged beginning has no part in the end."""
    path = encode(tmp_path / "a.mp4", marked_frames(range(200)), 24, **H264)
    from lora_tta.data import excerpt

    given = []
    decode = excerpt.decode_intact
    monkeypatch.setattr(
        excerpt, "decode_intact", lambda *arguments: given.append(arguments[2]) or decode(*arguments)
    )
    assert shown(read_excerpt(path, (HEIGHT, WIDTH), 24, 33)) == list(range(167, 200))
    assert given[0].keys[given[0].first]
    assert 100 < given[0].first < 200 - 33 - 24
