"""Loading a pipeline folder, with clear errors for what is missing or does not fit."""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLHunyuanVideo, ModelMixin
from transformers import CLIPTextModel, T5EncoderModel

from lora_tta.errors import UserError, reason_of
from lora_tta.models.memory import count_parameters, require_memory
from lora_tta.models.pipeline import OpenSoraContinuationPipeline
from lora_tta.models.speed.weight_streaming import read_weights
from lora_tta.models.transformer import OpenSoraTransformer3DModel
from lora_tta.models.weight_files import check_names, check_shapes, check_weights, read_json

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
        UserError: if files are missing, damaged or of another model, or the models do not fit into the
            device's memory. Nothing has been loaded then.
    """
    path, device = Path(path), torch.device(device)
    weight_files = check_pipeline_folder(path)
    left_out = {name: None for name in COMPONENTS if name not in components}
    weight_files = {name: files for name, files in weight_files.items() if name not in left_out}
    for name in set(components) - set(weight_files):
        for config in (path / name).glob("*.json"):
            read_json(config)
    num_parameters = count_parameters(file for files in weight_files.values() for file in files)
    require_memory(num_parameters, dtype, device, what=f"the pipeline in {path}")

    models = {
        name: _load_model(MODEL_CLASSES[name], path / name, files, device, dtype)
        for name, files in weight_files.items()
    }
    with _other_model(path, "a pipeline"):
        return OpenSoraContinuationPipeline.from_pretrained(path, **models, **left_out)


def _load_model(
    model_class: type, folder: Path, files: list[Path], device: torch.device, dtype: torch.dtype
) -> torch.nn.Module:
    """Load a model by its library, or at the rate of the disk where the library would be slower.

    On the CPU, mapped weights cost nothing until they are used, and processes share them.
    """
    if device.type == "cuda" and issubclass(model_class, ModelMixin):
        return stream_model(model_class, folder, files, device, dtype)
    empty = _empty_model(model_class, folder)
    if issubclass(model_class, ModelMixin):
        check_weights(empty, files)
        return model_class.from_pretrained(folder, dtype=dtype, device_map=str(device))
    file_of = check_shapes(empty, files)
    with _other_model(folder, f"a {model_class.__name__}"):
        # It knows by which other names weights may be stored. What is missing it would fill in.
        model, found = model_class.from_pretrained(
            folder, dtype=dtype, device_map=str(device), output_loading_info=True
        )
    check_names(sorted(found["missing_keys"]), sorted(found["unexpected_keys"]), file_of)
    return model


def stream_model(
    model_class: type[ModelMixin], folder: Path, files: list[Path], device: torch.device, dtype: torch.dtype
) -> ModelMixin:
    """Like ``model_class.from_pretrained``, at the rate at which the disk can be read.

    Raises:
        UserError: if the files do not hold the weights of the model that the folder's config describes.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        reading = executor.submit(read_weights, files, device, dtype)
        model = _empty_model(model_class, folder)
        check_weights(model, files)
    model.load_state_dict(reading.result(), assign=True)
    model.register_to_config(_name_or_path=folder)
    return model.to(device).eval()


def _empty_model(model_class: type, folder: Path) -> torch.nn.Module:
    """The model that the folder's ``config.json`` describes, without weights.

    Raises:
        UserError: the file describes no such model.
    """
    file = folder / "config.json"
    config = read_json(file)
    name = model_class.__name__
    if issubclass(model_class, ModelMixin):
        kind, is_right = config.get("_class_name"), config.get("_class_name") == name
        _, unknown, _ = model_class.extract_init_dict(dict(config))
        if is_right and (surplus := sorted(key for key in unknown if not key.startswith("_"))):
            raise UserError(f"{file} has the key {surplus[0]}, which a {name} has not: take it out")
    else:
        kind = config.get("model_type")
        is_right = bool(kind) and model_class.config_class.model_type.startswith(kind)
    if not is_right:
        raise UserError(f"{file} describes another model ({kind}) than a {name}: get it again")
    with _other_model(file, f"a {name}"), init_empty_weights():
        if issubclass(model_class, ModelMixin):
            return model_class.from_config(config)
        return model_class(model_class.config_class.from_pretrained(folder))


@contextmanager
def _other_model(place: Path, what: str) -> Iterator[None]:
    """Turn what a library raises over files that it cannot use into a line that names their place."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"{place} cannot be used as {what} ({reason_of(error)}): get it again") from error


def check_pipeline_folder(path: Path) -> dict[str, list[Path]]:
    """Check that a pipeline folder is complete.

    Returns:
        The weight files of each model that the folder has.

    Raises:
        UserError: naming the missing files, and where to get them; or a list of files is damaged.
    """
    index_file = path / "model_index.json"
    if not index_file.is_file():
        raise UserError(f"{path} is no pipeline folder, model_index.json is missing: {HOW_TO_GET_WEIGHTS}")
    index = read_json(index_file)
    components = [
        name for name, entry in index.items() if isinstance(entry, list) and entry[:1] not in ([], [None])
    ]
    others = [f"has the component {name}" for name in components if name not in COMPONENTS]
    if "transformer" not in components:
        others.append("has no transformer")
    if others:
        raise UserError(f"{index_file} describes another pipeline (it {others[0]}): {HOW_TO_GET_WEIGHTS}")

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
    names = read_json(index_file).get("weight_map")
    if not isinstance(names, dict) or not all(Path(str(name)).name == name for name in names.values()):
        raise UserError(f"{index_file} is damaged (weight_map names no files beside it): get it again")
    return [folder / name for name in sorted(set(names.values()))]
