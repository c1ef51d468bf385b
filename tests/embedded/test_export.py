import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from lora_tta.data.video import write_video
from lora_tta.embedded.evaluate import clips_of_videos, evaluate_pipeline, rendered_clips
from lora_tta.embedded.export import export_pipeline
from lora_tta.embedded.recipe import TransformerRecipe, VAERecipe
from lora_tta.embedded.train_transformer import TRAINED_PARTS, TextConditionedTransformer
from lora_tta.embedded.train_vae import build_vae
from lora_tta.models.loading import load_pipeline


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The embedded model's full sizes, untrained."""
    folder = tmp_path_factory.mktemp("export")
    build_vae(VAERecipe().config).save_pretrained(folder / "vae")
    model = TextConditionedTransformer(TransformerRecipe())
    for name in TRAINED_PARTS:
        getattr(model, name).save_pretrained(folder / name)
    export_pipeline(folder / "vae", folder, folder / "pipeline")
    return folder / "pipeline"


def test_the_folder_is_a_complete_bf16_pipeline_under_15_megabytes(exported):
    parts = {"transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"}
    index = json.loads((exported / "model_index.json").read_text())
    assert parts <= set(index)
    assert all((exported / part).is_dir() for part in parts)
    weights = list(exported.rglob("*.safetensors"))
    assert len(weights) == 4
    assert all(value.dtype == torch.bfloat16 for path in weights for value in load_file(path).values())
    assert sum(path.stat().st_size for path in exported.rglob("*") if path.is_file()) < 15e6


def test_the_files_name_no_folder_of_the_machine_that_wrote_them(exported):
    configs = list(exported.rglob("*.json"))
    assert configs
    assert not [path.name for path in configs if str(exported.parent) in path.read_text()]


def test_the_export_generates(exported, small_video):
    pipeline = load_pipeline(exported, dtype=torch.float32)
    video = replace(small_video, num_frames=37, conditioning_frames=33)
    clips = list(rendered_clips(("CameraPan", "RipplingFlag"), 2, video))
    measured = evaluate_pipeline(pipeline, clips, num_inference_steps=1, known=33)
    assert measured.classes == ["CameraPan", "RipplingFlag"]
    assert set(measured.values) == {
        f"{what}_{metric}" for what in ("model", "repeat", "vae") for metric in ("psnr", "ssim")
    }
    assert 5 < measured.means()["repeat_psnr"] < 40
    assert set(measured.by_class()) == {"CameraPan", "RipplingFlag"}


def test_without_known_frames_it_is_text_to_video(exported, small_video):
    pipeline = load_pipeline(exported, dtype=torch.float32)
    clips = rendered_clips(("CameraPan",), 1, replace(small_video, num_frames=5))
    measured = evaluate_pipeline(pipeline, clips, num_inference_steps=1, known=0)
    assert "model_psnr" in measured.values
    assert "repeat_psnr" not in measured.values


def test_all_windows_of_a_folder_of_videos_are_clips(tmp_path, small_video, moving_frames):
    folder = tmp_path / "videos" / "Sliding"
    folder.mkdir(parents=True)
    write_video(folder / "one.mp4", moving_frames, 24)
    video = replace(small_video, height=32, width=48, num_frames=21, conditioning_frames=17)
    clips = clips_of_videos(folder.parent, video)
    assert len(clips) == 3  # of 70 frames
    assert {clip.caption for clip in clips} == {"sliding"}
    assert clips[0].frames.shape == (21, 3, 32, 48)
    assert not torch.equal(clips[0].frames[0], clips[1].frames[0])
