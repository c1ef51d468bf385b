"""Loading a pipeline folder, with clear errors for what is missing or does not fit."""

import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLHunyuanVideo, ModelMixin
from transformers import CLIPTextModel, T5EncoderModel

from lora_tta.errors import UserError
from lora_tta.models.memory import count_parameters, require_memory
from lora_tta.models.pipeline import OpenSoraContinuationPipeline
from lora_tta.models.speed.weight_streaming import read_weights
from lora_tta.models.transformer import OpenSoraTransformer3DModel

MODEL_CLASSES = {
    "transformer": OpenSoraTransformer3DModel,
    "vae": AutoencoderKLHunyuanVideo,
    "text_encoder": T5EncoderModel,
    "text_encoder_2": CLIPTextModel,
}
TEXT_COMPONENTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
# What continuing a clip needs, and what encoding its known frames and its caption does.
FOR_GENERATION = ("transformer", "vae", "scheduler")
FOR_ENCODING = ("vae", "scheduler", *TEXT_COMPONENTS)
COMPONENTS = ("transformer", *FOR_ENCODING)
CONFIG_FILES = {
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
    "tokenizer_2": "tokenizer_config.json",
}
HOW_TO_GET_WEIGHTS = (
    "the weights are published as hpcai-tech/Open-Sora-v2 on the Hugging Face hub (Open_Sora_v2.safetensors, "
    "hunyuan_vae.safetensors, google/t5-v1_1-xxl, openai/clip-vit-large-patch14); convert them with "
    "`lora-tta convert --transformer Open_Sora_v2.safetensors --vae hunyuan_vae.safetensors "
    "--t5 google/t5-v1_1-xxl --clip openai/clip-vit-large-patch14 --output FOLDER`"
)


def load_pipeline(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    components: Collection[str] = COMPONENTS,
) -> OpenSoraContinuationPipeline:
    """Load a pipeline folder straight onto a device, without a second copy in host memory.

    Args:
        path: folder written by ``lora-tta convert`` or ``save_pretrained``.
        device: where the models go.
        dtype: of all models.
        components: the parts to load, such as :data:`FOR_GENERATION` and :data:`FOR_ENCODING`. Of the
            published weights, the transformer is more than half, and the text encoders are nearly the rest.

    Raises:
        UserError: if files are missing, or the models do not fit into the device's memory. Nothing has been
            loaded then.
    """
    path, device = Path(path), torch.device(device)
    weight_files = check_pipeline_folder(path)
    left_out = {name: None for name in COMPONENTS if name not in components}
    weight_files = {name: files for name, files in weight_files.items() if name not in left_out}
    num_parameters = count_parameters(file for files in weight_files.values() for file in files)
    require_memory(num_parameters, dtype, device, what=f"the pipeline in {path}")

    models = {
        name: _load_model(MODEL_CLASSES[name], path / name, files, device, dtype)
        for name, files in weight_files.items()
    }
    return OpenSoraContinuationPipeline.from_pretrained(path, **models, **left_out)


def _load_model(
    model_class: type, folder: Path, files: list[Path], device: torch.device, dtype: torch.dtype
) -> torch.nn.Module:
    """Load a model by its library, or at the rate of the disk where the library would be slower.

    On the CPU, mapped weights cost nothing until they are used, and processes share them.
    """
    if device.type == "cuda" and issubclass(model_class, ModelMixin):
        return stream_model(model_class, folder, files, device, dtype)
    return model_class.from_pretrained(folder, dtype=dtype, device_map=str(device))


def stream_model(
    model_class: type[ModelMixin], folder: Path, files: list[Path], device: torch.device, dtype: torch.dtype
) -> ModelMixin:
    """Like ``model_class.from_pretrained``, at the rate at which the disk can be read.

    Raises:
        UserError: if the files do not hold the weights of the model that the folder's config describes.
    """
    with ThreadPoolExecutor(max_workers=1) as executor, init_empty_weights():
        reading = executor.submit(read_weights, files, device, dtype)
        model = model_class.from_config(model_class.load_config(folder))
    weights = reading.result()
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder} holds other weights than its config.json describes: {reason}") from error
    model.register_to_config(_name_or_path=folder)
    return model.to(device).eval()


def check_pipeline_folder(path: Path) -> dict[str, list[Path]]:
    """Check that a pipeline folder is complete.

    Returns:
        The weight files of each model that the folder has.

    Raises:
        UserError: naming the missing files, and where to get them.
    """
    index_file = path / "model_index.json"
    if not index_file.is_file():
        raise UserError(f"{path} is no pipeline folder, model_index.json is missing: {HOW_TO_GET_WEIGHTS}")
    index = json.loads(index_file.read_text())
    components = [name for name, entry in index.items() if isinstance(entry, list) and entry[0] is not None]

    weight_files, missing = {}, []
    for name in components:
        if name in MODEL_CLASSES:
            weight_files[name] = _weight_files(path / name, MODEL_CLASSES[name])
            required = [path / name / "config.json", *weight_files[name]]
        else:
            required = [path / name / CONFIG_FILES[name]]
        missing += [str(file.relative_to(path)) for file in required if not file.is_file()]
    if missing:
        raise UserError(f"{path} is incomplete, {', '.join(missing)} missing: {HOW_TO_GET_WEIGHTS}")
    return weight_files


def _weight_files(folder: Path, model_class: type) -> list[Path]:
    """The files that should hold a model's weights: its shards, or one file."""
    is_diffusers = model_class.__module__.partition(".")[0] != "transformers"
    single = folder / ("diffusion_pytorch_model.safetensors" if is_diffusers else "model.safetensors")
    index_file = folder / f"{single.name}.index.json"
    if not index_file.is_file():
        return [single]
    return [folder / name for name in sorted(set(json.loads(index_file.read_text())["weight_map"].values()))]
