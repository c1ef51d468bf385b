import json

import av
import numpy as np
import pytest
import torch
from PIL import Image

from lora_tta.embedded import demo_clips
from lora_tta.embedded.demo_clips import write_footage, write_pieces
from lora_tta.embedded.synthetic import write_avi
from lora_tta.errors import UserError


def frames_of(path):
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in {"FRAMES": 5, "HEIGHT": 32, "WIDTH": 48, "GAP": 2}.items():
        monkeypatch.setattr(demo_clips, name, value)


def test_pieces_of_a_video_follow_each_other_in_one_group(tmp_path):
    """They are scaled to the set's width, keep their shape, and skip the frames between two pieces."""
    brightness = torch.arange(12, dtype=torch.uint8)[:, None, None, None] * 20
    write_avi(tmp_path / "old_film.avi", brightness.expand(12, 64, 96, 3), 25)
    write_pieces(tmp_path / "data", tmp_path / "old_film.avi")
    for number, first in ((1, 0), (2, 7)):
        frames = frames_of(tmp_path / f"data/OldFilm/v_OldFilm_g01_c{number:02d}.avi")
        assert frames.shape == (5, 32, 48, 3)
        assert np.abs(frames.mean(axis=(1, 2, 3)) - 20 * np.arange(first, first + 5)).max() < 8


@pytest.mark.parametrize(
    ("frames", "fps", "named"), [(11, 25, "has 11 frames: take one of 12"), (12, 24, "24 frames a second")]
)
def test_a_video_that_would_give_other_pieces_is_refused(tmp_path, frames, fps, named):
    write_avi(tmp_path / "film.avi", torch.zeros(frames, 64, 96, 3, dtype=torch.uint8), fps)
    with pytest.raises(UserError, match=named):
        write_pieces(tmp_path / "data", tmp_path / "film.avi")
    assert not (tmp_path / "data").exists()


def test_rendered_footage_shows_free_photographs_alone(tmp_path):
    """A grey picture is free, a red one is not."""
    rows = []
    for name, colour, licence in (("1.jpg", (99, 99, 99), "CC0-1.0"), ("2.jpg", (255, 0, 0), "CC-BY-2.0")):
        Image.new("RGB", (360, 240), colour).save(tmp_path / name)
        rows.append({"name": name, "licence": licence})
    (tmp_path / "photographs.json").write_text(json.dumps(rows))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        render = demo_clips.render_footage
        patch.setattr(demo_clips, "render_footage", lambda *given: seen.append(given[1]) or render(*given))
        write_footage(tmp_path / "data", tmp_path)
    assert [len(bank) for bank in seen] == [1, 1]
    assert seen[0].pictures.amax() < 110
    paths = sorted((tmp_path / "data/RenderedFootage").iterdir())
    assert [path.name for path in paths] == ["v_RenderedFootage_g01_c01.avi", "v_RenderedFootage_g02_c01.avi"]
    assert all(frames_of(path).shape == (5, 32, 48, 3) for path in paths)
