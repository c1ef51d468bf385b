"""Any two finished arms: folders, revisions of real DVC, and runs of a real MLflow store."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from clip_results import make_result

from lora_tta.cli.main import main
from lora_tta.records.arm_settings import write_settings
from lora_tta.records.results import ClipResult, write_results

IDS = "abcdefgh"


def arm(psnr: float, clips: str = IDS, **changes) -> list[ClipResult]:
    """Clips that rise from ``psnr`` by a dB each."""
    return [
        replace(
            make_result(clip_id, psnr + number),
            **({"split": "test", "frames_sha256": f"frames {clip_id}", "seed": number} | changes),
        )
        for number, clip_id in enumerate(clips)
    ]


@pytest.fixture
def lines(capsys):
    """What the command prints, spaces made single."""

    def run(*arguments: str) -> list[str]:
        assert main(["compare", *arguments]) == 0
        said = capsys.readouterr()
        assert said.err == ""  # no bar for a few small tables
        return [" ".join(line.split()) for line in said.out.splitlines()]

    return run


def test_two_folders_are_compared_clip_by_clip(workspace, lines):
    write_results(Path("one"), arm(15))
    write_results(Path("two"), arm(15.5)[::-1])
    printed = lines("one", "two")
    assert printed[0] == "8 clips; A is one, B is two"
    assert "PSNR (dB) * 18.5000 19.0000 +0.5000 +0.5000 .. +0.5000 100% better" in printed
    assert any(line.startswith("LPIPS ") and line.endswith("better") for line in printed)


def test_clips_that_cannot_be_paired_are_left_out_and_counted(workspace, lines):
    one, two = arm(15), arm(16)
    two[0] = replace(two[0], frames_sha256="another window")
    two[1] = replace(two[1], seed=99)
    two[2] = replace(two[2], split="search")
    write_results(Path("one"), one[:-1])
    write_results(Path("two"), two)
    printed = lines("one", "two")
    assert printed[:4] == [
        "left out: 1 clips that chose the settings of an arm",
        "left out: 1 clips in one arm only",
        "left out: 1 clips with other frames in the two arms (preprocess, data)",
        "left out: 1 clips from other starting noise (generation.seed)",
    ]
    assert printed[4].startswith("4 clips")


def test_settings_that_differ_are_named(workspace, lines):
    write_results(Path("one"), arm(15))
    write_results(Path("two"), arm(16))
    assert lines("one", "two")[0].startswith("8 clips")
    write_settings(Path("one"), {"generation": {"guidance_scale": 7.5, "seed": 0}})
    assert lines("one", "two")[0].startswith("8 clips")  # those of the other are not known
    write_settings(Path("two"), {"generation": {"guidance_scale": 6.0, "seed": 0}, "adaptation": {"rank": 8}})
    assert lines("one", "two")[:2] == [
        "differs: adaptation: in B alone",
        "differs: generation.guidance_scale: 7.5 and 6.0",
    ]


def test_what_needs_no_noise_is_paired_with_any(workspace, lines):
    write_results(Path("one"), arm(15))
    write_results(Path("still"), arm(14, seed=None))
    assert lines("one", "still")[0].startswith("8 clips")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (arm(16, clips="xyz"), "no clip in common"),
        (arm(16, frames_sha256="others"), "no clip in common"),
        ([replace(result, split="search") for result in arm(16)], "no clip in common"),
        (
            [
                replace(make_result(i, 16, "lpips_untrained"), **same)
                for i, same in zip(
                    IDS, ({"frames_sha256": f"frames {i}", "seed": n} for n, i in enumerate(IDS)), strict=True
                )
            ],
            "different metrics",
        ),
    ],
    ids=["other clips", "other windows", "search clips", "other metrics"],
)
def test_what_is_not_comparable_is_refused_in_one_line(workspace, capsys, other, message):
    write_results(Path("one"), arm(15))
    write_results(Path("two"), other)
    assert main(["compare", "one", "two"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["nothing", "HEAD", "HEAD~9:outputs/adapt", "0" * 32, "outputs"])
def test_an_arm_that_is_not_there_is_named_with_what_an_arm_can_be(workspace, capsys, name):
    write_results(Path("one"), arm(15))
    Path("outputs").mkdir()
    assert main(["compare", "one", name]) == 2
    error = capsys.readouterr().err
    assert f"no results in {name}: give a folder of results" in error
    assert error.count("\n") == 1


@pytest.fixture
def two_revisions(workspace):
    """A repository of real DVC whose arm was 15 dB and is 17 dB, in the cache alone."""

    def command(*words: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        words = (words[0], *identity, *words[1:]) if words[0] == "git" else words
        subprocess.run(words, check=True, capture_output=True)

    def commit(psnr: float) -> None:
        write_results(Path("outputs/adapt"), arm(psnr))
        write_settings(Path("outputs/adapt"), {"adaptation": {"rank": int(psnr)}})
        command("dvc", "add", "outputs/adapt")
        command("git", "add", ".")
        command("git", "commit", "-m", "now")

    command("git", "init")
    command("dvc", "init")
    commit(15)
    commit(17)
    shutil.rmtree("outputs/adapt")


def test_a_revision_is_read_from_dvcs_cache(two_revisions, lines):
    printed = lines("HEAD~1", "HEAD")
    assert printed[0] == "differs: adaptation.rank: 15 and 17"
    assert "PSNR (dB) * 18.5000 20.5000 +2.0000 +2.0000 .. +2.0000 100% better" in printed
    assert lines("HEAD:outputs/adapt", "HEAD~1")[1] == "8 clips; A is HEAD:outputs/adapt, B is HEAD~1"


def test_a_revision_that_dvc_has_not_kept_is_told_in_one_line(two_revisions, capsys):
    shutil.rmtree(".dvc/cache")
    assert main(["compare", "HEAD~1", "HEAD"]) == 2
    error = capsys.readouterr().err
    assert "HEAD~1: its files are neither in DVC's cache nor in the remote" in error
    assert error.count("\n") == 1


def test_a_run_is_read_from_mlflow(workspace, lines, empty_database, tmp_path, capsys):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert main(["params", f"tracking.uri={uri}"]) == 0
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment("runs", (tmp_path / "artifacts").as_uri())
    write_results(Path("tables"), arm(15))
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_artifacts("tables")
    write_results(Path("two"), arm(16))
    capsys.readouterr()
    assert "PSNR (dB) * 18.5000 19.5000 +1.0000 +1.0000 .. +1.0000 100% better" in lines(
        run.info.run_id, "two"
    )
