"""A study of seconds, for benchmarks of the search itself: small frames, two sampling steps, two clips."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from lora_tta.cache.store import ContentCache
from lora_tta.config import Params, load_params
from lora_tta.data.preprocess import preprocess
from lora_tta.experiment.encoding import encode_clip
from lora_tta.experiment.lazy_model import LazyModel
from lora_tta.records.clips import read_manifest
from lora_tta.stages.paths import CLIPS, DISTANCE, ENCODED


def prepare_study(folder: Path, num_trials: int, processes: int, **search: Any) -> Params:
    """Make ``folder`` a place in which the stage ``search`` runs: settings, clips and conditionings.

    Args:
        folder: that does not exist.
        num_trials: of the study, each at a learning rate of its own.
        processes: workers.
        search: other settings of the search.
    """
    values = load_params().model_dump(mode="json")
    values["data"]["root"] = str(Path(values["data"]["root"]).absolute())
    values["preprocess"] |= {"height": 32, "width": 48, "num_clips": 2, "search_clips": 1}
    values["model"] |= {"path": str(Path(values["model"]["path"]).absolute()), "device": "cpu"}
    values["adaptation"]["stopping"] = None
    values["generation"]["num_inference_steps"] = 2
    values["evaluation"] |= {"lpips": "untrained", "fvd": "off"}
    values["workers"] |= {"processes": processes, "heartbeat_seconds": 1}
    rates = [1e-4 * (1 + number / num_trials) for number in range(2 * num_trials)]
    values["search"] |= {
        "n_trials": num_trials,
        "space": {"rank": [2], "learning_rate": rates, "num_steps": [1]},
        **search,
    }
    params = Params.model_validate(values)
    clips_folder, encoded = folder / CLIPS, folder / ENCODED
    encoded.mkdir(parents=True)
    preprocess(params.data, params.preprocess, clips_folder)
    cache = folder / params.cache.path
    model = LazyModel(params.model, cache, for_encoding=True)
    for clip in read_manifest(clips_folder):
        content = ContentCache(cache, params.cache.max_bytes)
        encode_clip(model, content, clips_folder, clip, encoded / f"{clip.clip_id}.safetensors")
    (folder / DISTANCE).write_text('{"lpips": "untrained", "fvd": "off"}')
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    return params
