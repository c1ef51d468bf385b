"""From the published checkpoint files to a diffusers folder, one output shard in memory at a time."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler
from huggingface_hub.serialization import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
)

from lora_tta.errors import UserError
from lora_tta.files import atomic
from lora_tta.models.conversion.tensors import (
    PUBLISHED_TRANSFORMER_CONFIG,
    PUBLISHED_VAE_CONFIG,
    TransformerTensorConverter,
    check_converted_keys,
    vae_config,
)
from lora_tta.models.pipeline import OpenSoraContinuationPipeline
from lora_tta.models.transformer import OpenSoraTransformer3DModel

TensorConverter = Callable[[str, Tensor], dict[str, Tensor]]

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model{suffix}.safetensors"
TRANSFORMERS_WEIGHTS = "model{suffix}.safetensors"
# Parts of the whole T5 and CLIP models that the text encoders don't have.
T5_UNUSED = ("decoder.", "lm_head.")
CLIP_UNUSED = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")


def convert_checkpoint(
    transformer_file: str | Path,
    vae_file: str | Path,
    t5_folder: str | Path,
    clip_folder: str | Path,
    output_folder: str | Path,
    max_shard_size: int | str = "5GB",
    transformer_config: Mapping[str, Any] = PUBLISHED_TRANSFORMER_CONFIG,
    vae_config: Mapping[str, Any] = PUBLISHED_VAE_CONFIG,
) -> Path:
    """Convert the published files to a folder for ``load_pipeline``.

    Everything is checked before anything is written, and the folder appears only when it is complete.

    Args:
        transformer_file: ``Open_Sora_v2.safetensors``, in the separate or the fused layout.
        vae_file: ``hunyuan_vae.safetensors``.
        t5_folder: T5 with tokenizer, as on the Hugging Face hub.
        clip_folder: CLIP with tokenizer, as on the Hugging Face hub.
        output_folder: folder to create.
        max_shard_size: size of the output files, in bytes or like "5GB".
        transformer_config: published sizes, for other models of the same layout.
        vae_config: published sizes, for other models of the same layout.

    Returns:
        The output folder.

    Raises:
        UserError: if a file is missing or not in safetensors format, a checkpoint does not have the tensors
            its configuration asks for, or the output folder exists.
    """
    output = Path(output_folder)
    if output.exists():
        raise UserError(f"{output} exists: remove it or choose another output folder")
    checkpoints = {
        "transformer": Checkpoint([Path(transformer_file)]),
        "vae": Checkpoint([Path(vae_file)]),
        "text_encoder": Checkpoint(_safetensors_in(Path(t5_folder)), skip=T5_UNUSED),
        "text_encoder_2": Checkpoint(_safetensors_in(Path(clip_folder)), skip=CLIP_UNUSED),
    }
    try:
        pipeline, converters = _plan(
            checkpoints, transformer_config, vae_config, Path(t5_folder), Path(clip_folder)
        )
    except (ValueError, OSError) as error:
        raise UserError(" ".join(str(error).split())) from error

    with atomic(output) as partial:
        for name, checkpoint in checkpoints.items():
            pattern = DIFFUSERS_WEIGHTS if name in ("transformer", "vae") else TRANSFORMERS_WEIGHTS
            write_shards(checkpoint, converters[name], partial / name, pattern, max_shard_size)
        _write_configs(pipeline, partial)
    return output


class Checkpoint:
    """Tensors of one or more safetensors files, read one at a time.

    Args:
        files: the files.
        skip: beginnings of the keys to leave out.

    Attributes:
        shapes: an empty tensor on the meta device for each key, with its shape and dtype.

    Raises:
        UserError: if a file is missing or in another format.
    """

    def __init__(self, files: Iterable[Path], skip: tuple[str, ...] = ()) -> None:
        self.shapes: dict[str, Tensor] = {}
        self._file_of_key: dict[str, Path] = {}
        for path in files:
            if path.suffix != ".safetensors":
                raise UserError(
                    f"{path} is not a .safetensors file: only safetensors checkpoints are converted"
                )
            if not path.is_file():
                raise UserError(f"{path} does not exist: give the path of the published file")
            try:
                self._read_header(path, skip)
            except SafetensorError as error:
                raise UserError(
                    f"{path} is no valid safetensors file ({error}): download it again"
                ) from error

    def _read_header(self, path: Path, skip: tuple[str, ...]) -> None:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                if not key.startswith(skip):
                    # Slicing reads nothing but what is asked for: no rows, which still have a dtype.
                    part = file.get_slice(key)
                    self.shapes[key] = part[:0].new_empty(part.get_shape(), device="meta")
                    self._file_of_key[key] = path

    def load(self, key: str) -> Tensor:
        """Read one tensor."""
        with safe_open(self._file_of_key[key], framework="pt") as file:
            return file.get_tensor(key)


def write_shards(
    checkpoint: Checkpoint,
    convert_tensor: TensorConverter,
    folder: Path,
    filename_pattern: str,
    max_shard_size: int | str,
) -> None:
    """Convert a checkpoint into shards of limited size, with the index diffusers and transformers read."""
    folder.mkdir(parents=True)
    source_of: dict[str, str] = {}
    planned: dict[str, Tensor] = {}
    for key, tensor in checkpoint.shapes.items():
        for new_key, part in convert_tensor(key, tensor).items():
            source_of[new_key], planned[new_key] = key, part
    split = split_state_dict_into_shards_factory(
        planned,
        get_storage_size=lambda tensor: tensor.numel() * tensor.itemsize,
        filename_pattern=filename_pattern,
        max_shard_size=max_shard_size,
    )
    with tqdm(total=len(planned), desc=f"convert {folder.name}", unit="tensor") as progress:
        for filename, keys in split.filename_to_tensors.items():
            shard: dict[str, Tensor] = {}
            for source in dict.fromkeys(source_of[key] for key in keys):
                for new_key, part in convert_tensor(source, checkpoint.load(source)).items():
                    if split.tensor_to_filename[new_key] == filename:
                        shard[new_key] = part.clone(memory_format=torch.contiguous_format)
                        progress.update()
            save_file(shard, folder / filename, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        index_name = filename_pattern.format(suffix="") + ".index.json"
        (folder / index_name).write_text(json.dumps(index, indent=2) + "\n")


def _plan(
    checkpoints: dict[str, Checkpoint],
    transformer_sizes: Mapping[str, Any],
    vae_sizes: Mapping[str, Any],
    t5_folder: Path,
    clip_folder: Path,
) -> tuple[OpenSoraContinuationPipeline, dict[str, TensorConverter]]:
    """The pipeline without its weights, and each model's tensor conversion, checked against each other."""
    convert_transformer_tensor = TransformerTensorConverter(
        transformer_sizes, checkpoints["transformer"].shapes
    )
    converters: dict[str, TensorConverter] = dict.fromkeys(checkpoints, lambda key, tensor: {key: tensor})
    converters["transformer"] = convert_transformer_tensor
    scheduler = FlowMatchEulerDiscreteScheduler()
    with torch.device("meta"):
        pipeline = OpenSoraContinuationPipeline(
            transformer=OpenSoraTransformer3DModel(**convert_transformer_tensor.config),
            vae=AutoencoderKLHunyuanVideo(**vae_config(vae_sizes)),
            scheduler=scheduler,
            tokenizer=_load_tokenizer(t5_folder),
            text_encoder=T5EncoderModel(T5Config.from_pretrained(t5_folder)),
            tokenizer_2=_load_tokenizer(clip_folder),
            text_encoder_2=CLIPTextModel(CLIPTextConfig.from_pretrained(clip_folder)),
        )
    for name in ("transformer", "vae"):
        converted: dict[str, torch.Size] = {}
        for key, tensor in checkpoints[name].shapes.items():
            converted |= {new_key: part.shape for new_key, part in converters[name](key, tensor).items()}
        check_converted_keys(getattr(pipeline, name).state_dict(), converted)
    for name, folder in (("text_encoder", t5_folder), ("text_encoder_2", clip_folder)):
        _check_text_encoder(folder, getattr(pipeline, name), checkpoints[name])
    return pipeline, converters


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    # Without its files transformers would make up an empty tokenizer for the kind of model.
    if not (folder / "tokenizer_config.json").is_file():
        raise UserError(f"{folder} holds no tokenizer: give the published folder with all its files")
    return AutoTokenizer.from_pretrained(folder)


def _check_text_encoder(folder: Path, model: nn.Module, checkpoint: Checkpoint) -> None:
    # The whole CLIP model has its text part under a prefix; T5 stores its tied embedding once.
    stored = {key.removeprefix("text_model.") for key in checkpoint.shapes} | {"encoder.embed_tokens.weight"}
    missing = [key for key in model.state_dict() if key.removeprefix("text_model.") not in stored]
    if missing:
        raise ValueError(f"{folder} lacks the tensors {', '.join(missing[:10])}")


def _write_configs(pipeline: OpenSoraContinuationPipeline, folder: Path) -> None:
    pipeline.transformer.save_config(folder / "transformer")
    pipeline.vae.save_config(folder / "vae")
    for name in ("text_encoder", "text_encoder_2"):
        model = getattr(pipeline, name)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder / name)
    for name in ("tokenizer", "tokenizer_2", "scheduler"):
        getattr(pipeline, name).save_pretrained(folder / name)
    pipeline.save_config(folder)


def _safetensors_in(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{folder} has no .safetensors file: only safetensors checkpoints are converted (save others "
            "with transformers' save_pretrained first)"
        )
    return files
