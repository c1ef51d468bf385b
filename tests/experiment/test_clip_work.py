"""What the keys of the work on a clip depend on, and what they do not."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lora_tta.backbones.base import Conditioning
from lora_tta.cache.keys import digest
from lora_tta.cache.store import KEY_NAME, ContentCache
from lora_tta.config import Params, load_params
from lora_tta.data.video import write_video
from lora_tta.experiment.clip_work import ClipWork
from lora_tta.experiment.encoding import encode_clip
from lora_tta.files import file_sha256
from lora_tta.records.clips import Clip
from lora_tta.records.yardsticks import LAST_FRAME, OTHER_SEED, RECONSTRUCTION, YARDSTICKS

CLIP = {
    "clip_id": "v_Sliding_g01_c01",
    "class_name": "Sliding",
    "caption": "sliding",
    "source": "Sliding/v_Sliding_g01_c01.avi",
    "source_frames": 100,
    "source_fps": 25.0,
    "window_start": 0,
    "window_end": 65,
    "conditioning_frames": 33,
    "fps": 24,
    "height": 32,
    "width": 48,
    "sha256": "0" * 64,
    "frames_sha256": "2" * 64,
    "group": "Sliding/g01",
    "split": "test",
}
PARAMS = load_params(Path(__file__).parents[2] / "params.yaml").model_dump()
ENVIRONMENT = {
    "model": "1234.dir",
    "backbone": "opensora",
    "device": "NVIDIA H100 80GB HBM3",
    "dtype": "bfloat16",
    "num_threads": 2,
    "accelerate": True,
}
ADAPTER, CONTINUATION, RESULT, BASELINE = "adapter", "continuation", "result", "baseline"
EVERY = {ADAPTER, CONTINUATION, RESULT, BASELINE}


def work(
    clip: dict | None = None,
    params: dict[str, dict] | None = None,
    environment: dict | None = None,
    adapts: bool = True,
    yardstick: str | None = None,
    **others: str,
) -> ClipWork:
    """The work on a clip with the repository's settings, and the given changes."""
    settings = {name: section | (params or {}).get(name, {}) for name, section in PARAMS.items()}
    parsed = Params.model_validate(settings)
    return ClipWork(
        yardstick=yardstick,
        clip=Clip(**CLIP | (clip or {})),
        adaptation=parsed.adaptation if adapts else None,
        params=parsed,
        environment=ENVIRONMENT | (environment or {}),
        **{"conditioning": "c" * 64, "distance": "lpips"} | others,
    )


def keys(**changes: Any) -> dict[str, str]:
    """Digests of the keys of all parts, those without adaptation included."""
    adapted, baseline = work(**changes), work(**changes, adapts=False)
    return {
        ADAPTER: digest(adapted.adapter_key(5)),
        CONTINUATION: digest(adapted.continuation_key),
        RESULT: digest(adapted.result_key),
        BASELINE: digest(baseline.continuation_key),
    }


@pytest.fixture(scope="module")
def changed() -> Callable[..., set[str]]:
    """The parts whose keys the given changes change."""
    before = keys()

    def parts(**changes: Any) -> set[str]:
        return {part for part, value in keys(**changes).items() if value != before[part]}

    return parts


def test_equal_work_has_equal_keys(changed):
    assert changed() == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "NVIDIA H200"),
        ("model", "5678.dir"),
        ("backbone", "another"),
        ("dtype", "float32"),
        ("num_threads", 3),
        ("accelerate", False),
    ],
)
def test_the_name_of_the_gpu_and_the_rest_of_the_environment_are_in_every_key(changed, name, value):
    assert changed(environment={name: value}) == EVERY
    adapted, baseline = work(environment={name: value}), work(adapts=False, environment={name: value})
    for key in (
        adapted.adapter_key(5),
        adapted.trajectory_key,
        adapted.continuation_key,
        adapted.result_key["continuation"],
        baseline.continuation_key,
    ):
        assert key[name] == value


def conditioning_key(folder: Path, frames: np.ndarray, environment: dict, **changes: Any) -> dict[str, Any]:
    """The key under which the cache has the conditioning of a clip, encoded by a model that does not look."""
    folder.mkdir()
    path = folder / Clip(**CLIP | changes).file_name
    write_video(path, frames, CLIP["fps"])
    clip = Clip(**CLIP | {"sha256": file_sha256(path)} | changes)
    model = SimpleNamespace(
        environment=ENVIRONMENT | environment,
        params=Params.model_validate(PARAMS).model,
        backbone=SimpleNamespace(encode=lambda frames, caption: Conditioning({"a": torch.zeros(1)})),
    )
    cache = ContentCache(folder / "cache", 10**9)
    encode_clip(model, cache, folder, clip, folder / "encoded.safetensors")  # type: ignore[arg-type]
    (key,) = cache.root.glob(f"conditioning/*/{KEY_NAME}")
    return json.loads(key.read_text())


def test_a_conditionings_key_holds_the_gpu_the_known_frames_and_the_caption_but_no_later_frame(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (65, 32, 48, 3), dtype=np.uint8)
    later, earlier = frames.copy(), frames.copy()
    later[33:] = 0
    earlier[:33] = 0
    first = conditioning_key(tmp_path / "first", frames, {})
    assert first["device"] == ENVIRONMENT["device"]
    other = {"class_name": "Gliding", "source": "elsewhere.avi"}
    assert conditioning_key(tmp_path / "later", later, {}, **other) == first
    assert conditioning_key(tmp_path / "earlier", earlier, {}) != first
    assert conditioning_key(tmp_path / "caption", frames, {}, caption="gliding") != first
    assert conditioning_key(tmp_path / "gpu", frames, {"device": "NVIDIA H200"}) != first


@pytest.mark.parametrize(
    ("clip", "parts"),
    [
        ({"class_name": "Gliding"}, {RESULT}),
        ({"sha256": "1" * 64}, {RESULT}),  # later frames: earlier ones change the conditioning
        ({"clip_id": "another"}, EVERY),  # by the seeds
        ({"source": "elsewhere.avi", "source_frames": 90, "source_fps": 30.0}, set()),
        ({"frames_sha256": "3" * 64, "group": "elsewhere.avi", "split": "search"}, set()),
    ],
)
def test_of_the_clip_only_what_the_work_is_given_counts(changed, clip, parts):
    assert changed(clip=clip) == parts


def test_the_conditioning_counts_for_all_and_the_distance_for_the_measurements(changed):
    assert changed(conditioning="d" * 64) == EVERY
    assert changed(distance="lpips_untrained") == {RESULT}


@pytest.mark.parametrize(
    ("section", "settings", "parts"),
    [
        ("adaptation", {"seed": 99}, {ADAPTER, CONTINUATION, RESULT}),
        ("adaptation", {"learning_rate": 0.5}, {ADAPTER, CONTINUATION, RESULT}),
        ("adaptation", {"warmup_steps": 99}, {ADAPTER, CONTINUATION, RESULT}),
        ("adaptation", {"num_steps": 99}, {CONTINUATION, RESULT}),  # the adapter is the one after 5 steps
        ("generation", {"seed": 99}, {CONTINUATION, RESULT, BASELINE}),
        ("generation", {"num_inference_steps": 99}, {CONTINUATION, RESULT, BASELINE}),
        ("generation", {"guidance_scale": 99.0}, {CONTINUATION, RESULT, BASELINE}),
        ("evaluation", {"seed": 99, "bootstrap_samples": 99}, set()),
        ("search", {"seed": 99, "n_trials": 99, "study_name": "another"}, set()),
        ("workers", {"processes": 99}, set()),
        ("tracking", {"experiment": "another"}, set()),
        ("cache", {"path": "elsewhere"}, set()),
        ("data", {"root": "elsewhere"}, set()),
        ("model", {"path": "elsewhere"}, set()),  # its content counts, which the environment identifies
    ],
)
def test_a_setting_changes_the_keys_of_the_work_that_depends_on_it(changed, section, settings, parts):
    assert changed(params={section: settings}) == parts


def test_a_setting_of_the_method_is_in_the_adapters_key(changed):
    method = PARAMS["adaptation"]["method"] | {"rank": 99}
    assert changed(params={"adaptation": {"method": method}}) == {ADAPTER, CONTINUATION, RESULT}


def test_adapters_of_one_trajectory_differ_in_the_number_of_steps_only():
    one = work()
    five, ten = one.adapter_key(5), one.adapter_key(10)
    assert {name for name in five | ten if five.get(name) != ten.get(name)} == {"num_steps"}
    assert (five["num_steps"], ten["num_steps"]) == (5, 10)
    longer = work(params={"adaptation": {"num_steps": 99}})
    assert longer.trajectory_key == one.trajectory_key
    assert longer.adapter_key(5) == five


def test_a_continuation_is_of_the_adapter_after_all_steps():
    one = work(params={"adaptation": {"num_steps": 70}})
    assert one.continuation_key["adapter"] == one.adapter_key(70)


def test_without_adaptation_there_is_no_adapter_anywhere():
    baseline = work(adapts=False)
    assert baseline.continuation_key["adapter"] is None
    with pytest.raises(ValueError, match="no adaptation"):
        baseline.adapter_key(5)


def test_both_arms_of_a_clip_start_from_the_same_noise_and_no_two_clips_do():
    assert work().generation_seed == work(adapts=False).generation_seed
    assert work().generation_seed != work(clip={"clip_id": "another"}).generation_seed
    assert work().adaptation_seed != work(clip={"clip_id": "another"}).adaptation_seed


def test_the_short_name_is_of_the_whole_work():
    names = {work().name, work(adapts=False).name, work(clip={"class_name": "Gliding"}).name}
    assert len(names) == 3
    assert work().name == work().name
    assert {len(name) for name in names} == {16}


def test_yardsticks_depend_on_what_they_show():
    def key(yardstick: str, **changes: Any) -> str:
        return digest(work(adapts=False, yardstick=yardstick, **changes).continuation_key)

    names = [row.name for row in YARDSTICKS]
    assert len({key(name) for name in names}) == len(names)
    other_file, other_sampling = {"clip": {"sha256": "f" * 64}}, {"params": {"generation": {"seed": 7}}}
    other_model = {"environment": {"model": "another"}}
    changed = {
        name: [key(name, **change) != key(name) for change in (other_file, other_sampling, other_model)]
        for name in names
    }
    assert changed == {
        LAST_FRAME: [True, False, False],
        RECONSTRUCTION: [True, False, True],
        OTHER_SEED: [False, True, True],  # what the model sees of the file is in the conditioning
    }
