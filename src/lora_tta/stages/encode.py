"""Stage ``encode``: latents of the known frames and text embeddings of every clip, once for every trial."""

import json

from lora_tta.imports import large_imports

with large_imports():
    from tqdm import tqdm

    from lora_tta.cache.store import ContentCache
    from lora_tta.ends import end_process
    from lora_tta.errors import report_user_errors
    from lora_tta.evaluation.perceptual import decide_mode
    from lora_tta.evaluation.video_features import decide_fvd
    from lora_tta.experiment.encoding import encode_clip
    from lora_tta.experiment.lazy_model import LazyModel
    from lora_tta.files import atomic, write_text
    from lora_tta.records.clips import read_manifest
    from lora_tta.stages.model_hash import remember_model
    from lora_tta.stages.paths import CLIPS, DISTANCE, ENCODED, ENCODING_MODEL
    from lora_tta.stages.stage_params import load_stage_params


def main() -> None:
    """Write ``outputs/encoded/<clip_id>.safetensors``, the model's identity, and what is measured.

    Whether the weights of LPIPS and FVD can be had is decided here for all later stages, so that none
    measures with others than the one before it.

    The stages after this one depend on these files, and not on the model's folder: DVC need not look at 24 GB
    for each of them.
    """
    params = load_stage_params()
    decided = {
        "lpips": decide_mode(params.evaluation.lpips),
        "fvd": decide_fvd(params.evaluation.fvd, len(read_manifest(CLIPS, "test"))),
    }
    remember_model(params.model.path, params.cache.path)
    model = LazyModel(params.model, params.cache.path, for_encoding=True)
    cache = ContentCache(params.cache.path, params.cache.max_bytes)
    with atomic(ENCODED) as folder:
        for clip in tqdm(read_manifest(CLIPS), desc="encode", unit="clip"):
            encode_clip(model, cache, CLIPS, clip, folder / f"{clip.clip_id}.safetensors")
        identity = {"model": model.environment["model"]}
        write_text(folder / ENCODING_MODEL.name, json.dumps(identity) + "\n")
        write_text(folder / DISTANCE.name, json.dumps(decided) + "\n")


if __name__ == "__main__":
    end_process(report_user_errors(main))
