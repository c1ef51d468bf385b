import numpy as np
import pytest

from lora_tta.report.side_by_side import side_by_side


def flat(value: int, num_frames: int = 3) -> np.ndarray:
    return np.full((num_frames, 32, 48, 3), value, np.uint8)


def test_videos_stand_enlarged_beside_each_other_under_their_names():
    video = side_by_side({"truth": flat(10), "adapted": flat(200)}, num_known=1)
    assert video.shape == (3, 24 + 128, 2 * 192 + 4, 3)
    assert (video[:, 24:, :192] == 10).all()
    assert (video[:, 24:, 196:] == 200).all()
    known, *new = (int(frame[:24].min()) for frame in video)
    assert known > max(new), "names of known frames are grey"


def test_videos_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        side_by_side({"a": flat(1), "b": flat(1, num_frames=2)}, 1)
