"""`lora-tta continue` writes beside the video and over nothing, and tells what it wrote and its cost."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prepared_clips import write_raw_clip

from lora_tta.cli.main import main
from lora_tta.data.video import read_video

README = Path(__file__).parents[2] / "README.md"
SMALL = ["preprocess.height=32", "preprocess.width=48", "generation.num_inference_steps=2"]


@pytest.fixture
def small(workspace, tiny_model):
    """A folder in which the tiny model is the one of the settings."""
    assert main(["params", *SMALL, "model.device=cpu", f"model.path={tiny_model}"]) == 0
    return workspace


@pytest.fixture
def video(tmp_path_factory, moving_frames):
    path = tmp_path_factory.mktemp("videos") / "a dog's day: 100%.avi"
    write_raw_clip(path, moving_frames)
    return path


def test_it_writes_the_continuation_and_the_comparison_beside_the_video(small, video, capsys):
    given = ["--prompt", "a dog runs", "--rank", "2", "--steps", "2", "--learning-rate", "0.01"]
    assert main(["continue", str(video), *given]) == 0
    lines = capsys.readouterr().out.splitlines()
    continued, comparison = (
        video.with_name(f"{video.stem}_{name}.mp4") for name in ("continued", "continued_comparison")
    )
    assert read_video(continued).shape == (65, 32, 48, 3)
    assert read_video(comparison).shape == (65, 24 + 4 * 32, 3 * 4 * 48 + 2 * 4, 3)
    assert lines[0] == 'prompt: "a dog runs" (as given)'
    value = r"-?\d+\.\d\d"
    assert re.search(rf"PSNR {value} without and {value} with adaptation; SSIM {value} without", lines[1])
    assert lines[2].startswith(f"wrote {continued} (32 new frames, 1.3 s) and {comparison}; ")
    assert re.search(r"\d+\.\d s of adaptation \(2 steps\), \d+\.\d s of generation$", lines[2])
    assert len(lines) == 3


def test_what_is_there_is_not_overwritten_unasked(small, video, capsys):
    there = video.with_name(f"{video.stem}_continued_comparison.mp4")
    there.write_text("mine")
    command = ["continue", str(video), "--steps", "1"]
    assert main(command) == 2
    assert f"{there} exists" in capsys.readouterr().err
    assert there.read_text() == "mine"
    assert main([*command, "--overwrite", "--no-compare"]) == 0
    assert there.read_text() == "mine"
    assert "comparison" not in capsys.readouterr().out


def test_a_video_of_the_data_folder_is_continued_here_and_not_among_the_clips(small, video, capsys):
    (small / "data").mkdir()
    path = shutil.copy(video, small / "data" / "a.avi")
    assert main(["continue", str(path), "--steps", "1", "--start", "0.2"]) == 0
    assert [each.name for each in (small / "data").iterdir()] == ["a.avi"]
    assert {"a_continued.mp4", "a_continued_comparison.mp4"} < {each.name for each in small.iterdir()}


def test_a_short_video_says_why_there_is_no_comparison(small, tmp_path, moving_frames, capsys):
    write_raw_clip(tmp_path / "videos" / "a.avi", moving_frames[:40])
    (tmp_path / "out").mkdir()
    assert (
        main(
            [
                "continue",
                str(tmp_path / "videos" / "a.avi"),
                "--steps",
                "1",
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_continued.mp4"]
    assert "no comparison" in capsys.readouterr().out


def test_every_mistake_is_one_line_before_any_work(small, video, capsys):
    (small / "text.mp4").write_text("no video")
    mistakes = {
        ("none.mp4",): "no file",
        (".",): "no file",
        ("text.mp4",): "cannot be continued",
        (str(video), "--output", "a.avi"): "ends in .mp4",
        (str(video), "--output", "none/a.mp4"): "no folder that can be written to",
        (str(video), "--start", "-1"): "seconds from the beginning",
        (str(video), "--start", "nan"): "seconds from the beginning",
        (str(video), "--rank", "0"): "rank",
        (str(video), "--steps", "0"): "num_steps",
        (str(video), "--learning-rate", "-1"): "learning_rate",
    }
    for arguments, reason in mistakes.items():
        assert main(["continue", *arguments]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1
    shutil.copy(video, small / "a.mp4")
    assert main(["continue", "a.mp4", "--output", "a.mp4", "--overwrite"]) == 2
    assert "the video itself" in capsys.readouterr().err


def test_a_name_as_long_as_names_can_be(small, tmp_path, moving_frames):
    name = "ä" * 125 + ".avi"
    write_raw_clip(tmp_path / "videos" / name, moving_frames[:40])
    assert main(["continue", str(tmp_path / "videos" / name), "--steps", "1"]) == 0
    assert len(list((tmp_path / "videos").glob("*_continued.mp4"))) == 1


def test_without_settings_those_of_the_package_are_taken_and_a_missing_model_says_what_to_do(
    tmp_path, video, monkeypatch, capsys
):
    """The checkout's own model is there or not; the tests do not need it."""
    from lora_tta import config

    (tmp_path / "package").mkdir()
    shutil.copy(config._PACKAGE / "params.yaml", tmp_path / "package" / "params.yaml")
    shutil.copytree(config._PACKAGE / "presets", tmp_path / "package" / "presets")
    monkeypatch.setattr(config, "_PACKAGE", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    assert main(["continue", str(video)]) == 2
    error = capsys.readouterr().err
    assert "models/embedded is missing: `dvc pull models/embedded.dvc`" in error
    assert error.count("\n") == 1


def test_the_readme_s_python_runs(small, video, capsys):
    """As it stands there, in a folder where the video has the name that it has there."""
    [code] = re.findall(r"^```python\n(import lora_tta\n.+?)^```", README.read_text(), re.M | re.S)
    assert len(code.splitlines()) <= 12
    shutil.copy(video, small / "dog.mp4")
    exec(code, {})
    assert re.search(r"\d s for losses .*\npsnr: .*\nssim: ", capsys.readouterr().out)
    assert read_video(small / "dog_continued.mp4").shape == (65, 32, 48, 3)
    assert len(read_video(small / "dog_comparison.mp4")) == 65


def test_the_package_is_imported_at_once():
    """What it offers is looked up when it is used."""
    code = (
        "import sys, lora_tta; dir(lora_tta); print({'torch', 'numpy', 'av', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_all_that_the_package_offers_is_there():
    import lora_tta

    assert all(getattr(lora_tta, name) for name in lora_tta.__all__)
    assert set(lora_tta.__all__) <= set(dir(lora_tta))
    with pytest.raises(AttributeError, match="nothing"):
        _ = lora_tta.nothing
