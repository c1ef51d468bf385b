import json

import pytest
from prepared_clips import write_raw_clip
from ruamel.yaml import YAML

from lora_tta.embedded.synthetic import HELD_OUT_CLASSES, TRAINING_CLASSES
from lora_tta.errors import UserError
from lora_tta.records.clips import Clip, read_manifest


@pytest.mark.slow(15)
def test_recipes_are_compared_on_fresh_clips_and_real_ones(
    benchmark_named, params, tmp_path, moving_frames, monkeypatch, capsys, forkserver_with_model
):
    values = params.model_dump(mode="json")
    values["cache"]["path"] = "cache"
    # Short windows are rendered, generated and measured sooner.
    values["preprocess"] |= {"conditioning_frames": 5, "generated_frames": 4}
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    monkeypatch.chdir(tmp_path)
    for name, frames in (("one", moving_frames[:20]), ("other", moving_frames[20:30])):
        write_raw_clip(tmp_path / "real" / "Sliding" / f"{name}.avi", frames)

    def run(benchmark: str, *options: str) -> str:
        monkeypatch.setattr("sys.argv", [benchmark, *options])
        benchmark_named(benchmark).main()
        return capsys.readouterr().out

    run("evidence_clips", "--output=e", "--search=1", "--test=2", "--real=real", "--real-search", "other.avi")
    clips = read_manifest(tmp_path / "e" / "clips")
    assert [(clip.split, clip.class_name in TRAINING_CLASSES, clip.source) for clip in clips] == [
        ("search", True, "CameraPan/v_CameraPan_g01_c01.avi"),
        ("search", False, "Sliding/other.avi"),
        ("test", True, "CameraPan/v_CameraPan_g02_c01.avi"),
        ("test", False, "ConveyorBelts/v_ConveyorBelts_g01_c01.avi"),
        ("test", False, "Sliding/one.avi"),
        ("test", False, "Sliding/one.avi"),
    ]
    assert sum(clip.class_name in HELD_OUT_CLASSES for clip in clips) == 1

    options = [
        "--clips-folder=e/clips",
        "--encoded=e/encoded",
        "--steps=1",
        "--processes=2",
        "--output=r.json",
    ]
    unfinished = run("adaptation_recipes", *options, "--recipes=norms", "--minutes=0")
    assert "Unfinished: norms" in unfinished
    printed = run("adaptation_recipes", *options, "--recipes", "norms", "full")
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["failed"], report["unfinished"], list(report["recipes"])) == (
        {},
        [],
        ["norms", "full"],
    )
    assert len(report["searched"]["norms"]) == 3
    groups = {name: each["clips"] for name, each in report["references"]["no adaptation"].items()}
    assert groups == {"all": 4, "classes trained on": 1, "classes never trained on": 1, "real footage": 2}
    for name, found in report["recipes"].items():
        assert {group: each["clips"] for group, each in found["psnr"].items()} == groups
        gains = [each["gain"] for each in found["clips"].values()]
        assert sum(gains) / 4 == pytest.approx(found["psnr"]["all"]["difference"])
        assert f"| {name} | {found['learning_rate']:g}, 1" in printed


def test_a_failed_task_and_a_dead_process_spoil_one_task_each(
    benchmark_named, params, tmp_path, forkserver_with_model
):
    recipes_pool = benchmark_named("recipes_pool")
    missing = Clip("gone", "Gone", "", "gone.avi", 9, 24.0, 0, 9, 5, 24, 32, 48, "", "", "gone", "test")
    with recipes_pool.Pool(2, params, tmp_path, tmp_path) as pool:
        killed = next(iter(pool._processes.values()))
        killed.kill()
        killed.join()
        reasons = [reason for _, reason in pool.run([recipes_pool.Encoding(missing)] * 3, "encode")]
    assert sum(reason.startswith("its process died") for reason in reasons) == 1
    assert sum("gone.mp4" in reason for reason in reasons) == 2


def test_the_last_process_may_die_at_the_last_task_and_not_before(
    benchmark_named, params, tmp_path, forkserver_with_model
):
    recipes_pool = benchmark_named("recipes_pool")
    missing = Clip("gone", "Gone", "", "gone.avi", 9, 24.0, 0, 9, 5, 24, 32, 48, "", "", "gone", "test")
    for count in (1, 2):
        with recipes_pool.Pool(1, params, tmp_path, tmp_path) as pool:
            (only,) = pool._processes.values()
            only.kill()
            only.join()
            results = pool.run([recipes_pool.Encoding(missing)] * count, "encode")
            assert next(results)[1].startswith("its process died")
            if count == 1:
                assert not list(results)
            else:
                with pytest.raises(UserError, match="all processes died"):
                    next(results)
