import av
import numpy as np
import pytest
import torch

from lora_tta.data.ucf101 import find_videos
from lora_tta.embedded.layered_scene import render_scenes
from lora_tta.embedded.synthetic import (
    CLASSES,
    HELD_OUT_CLASSES,
    TRAINING_CLASSES,
    draw_scene,
    render_clip,
    write_dataset,
)


def small_clip(class_name: str, seed: int = 0, num_frames: int = 9, fps: float = 8) -> torch.Tensor:
    return render_clip(class_name, seed, num_frames, height=32, width=56, fps=fps)


def test_some_classes_are_kept_from_training():
    assert len(CLASSES) >= 8
    assert len(HELD_OUT_CLASSES) >= 2
    assert not set(TRAINING_CLASSES) & set(HELD_OUT_CLASSES)
    assert set(CLASSES) == set(TRAINING_CLASSES) | set(HELD_OUT_CLASSES)


@pytest.mark.parametrize("class_name", CLASSES)
def test_a_clip_is_its_class_and_seed(class_name):
    clip = small_clip(class_name)
    assert clip.shape == (9, 3, 32, 56)
    assert clip.dtype == torch.float32
    assert 0 <= clip.min() < clip.max() <= 1
    assert torch.equal(clip, small_clip(class_name))
    assert not torch.allclose(clip, small_clip(class_name, seed=1), atol=0.1)
    others = [small_clip(other) for other in CLASSES if other != class_name]
    assert all((clip - other).abs().mean() > 0.05 for other in others)


@pytest.mark.parametrize("class_name", CLASSES)
def test_nearly_every_pixel_moves(class_name):
    clip = small_clip(class_name)
    changed = (clip - clip[:1]).abs().amax(dim=(0, 1)) > 0.02
    assert changed.float().mean() > 0.8


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_frame_rate_samples_the_same_motion(class_name):
    slow, fast = small_clip(class_name, num_frames=3, fps=6), small_clip(class_name, num_frames=5, fps=12)
    assert torch.allclose(slow, fast[::2], atol=1e-4)


def test_a_wider_picture_is_a_centre_crop_of_the_same_scene():
    tall = render_clip("DriftingBoxes", 0, 2, height=48, width=56)
    wide = render_clip("DriftingBoxes", 0, 2, height=32, width=56)
    assert torch.allclose(tall[:, :, 8:-8], wide, atol=1e-5)


def test_scenes_render_the_same_in_a_batch():
    names = ("CameraPan", "DriftingBoxes", "RipplingFlag")
    scenes = [draw_scene(name, 3, num_frames=2, fps=24) for name in names]
    batch = render_scenes({key: torch.stack([scene[key] for scene in scenes]) for key in scenes[0]}, 32, 56)
    for rendered, name in zip(batch, names, strict=True):
        assert torch.allclose(rendered, small_clip(name, 3, num_frames=2, fps=24), atol=1e-5)


def test_the_data_set_has_the_layout_of_ucf101(tmp_path):
    paths = write_dataset(tmp_path, training_clips=0, held_out_clips=3, height=48, width=64, frames=(7, 9))
    assert sorted(source.path for source in find_videos(tmp_path)) == sorted(paths)
    assert [path.relative_to(tmp_path).as_posix() for path in paths[:3]] == [
        "ConveyorBelts/v_ConveyorBelts_g01_c01.avi",
        "ConveyorBelts/v_ConveyorBelts_g01_c02.avi",
        "ConveyorBelts/v_ConveyorBelts_g02_c01.avi",
    ]
    for path in paths:
        with av.open(path) as container:
            stream = container.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            assert stream.codec_context.name == "mpeg4"
            assert stream.average_rate == 25
        assert 7 <= len(frames) <= 9
        assert frames[0].shape == (48, 64, 3)
        assert np.abs(frames[-1].astype(int) - frames[0]).mean() > 2


def test_an_unknown_class_is_an_error():
    with pytest.raises(KeyError, match="PlayingCello"):
        draw_scene("PlayingCello", 0, 1, 24)
