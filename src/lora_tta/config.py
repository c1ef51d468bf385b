"""``params.yaml`` as one typed, validated object: every setting of the pipeline, parsed once.

Sections follow the stages of ``dvc.yaml``. Unknown keys, wrong types and values out of range are
errors that name the key.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lora_tta.errors import UserError

# What the URL of a SQLite file begins with.
SQLITE = "sqlite:///"
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Base of every section: immutable, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataParams(Section):
    """Where the raw clips are (UCF-101 layout or any folder of videos) and which official list to keep to."""

    root: Path
    split_list: Path | None


class PreprocessParams(Section):
    """Raw clips to 65-frame H.264 clips; sizes in pixels, ``fps`` in frames per second."""

    height: Annotated[int, Field(ge=32, multiple_of=16)]
    width: Annotated[int, Field(ge=32, multiple_of=16)]
    fps: PositiveInt
    window: Literal["first", "middle"]
    num_clips: PositiveInt | None
    seed: NonNegativeInt


class ModelParams(Section):
    """The diffusers folder of the model, and where and in what precision it runs.

    ``num_threads`` is fixed because sums on the CPU differ in their last bits with the number of threads.
    ``accelerate`` matters on a GPU only, see :mod:`lora_tta.models.speed.acceleration`.
    """

    path: Path
    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    num_threads: PositiveInt
    accelerate: bool


class AdaptationParams(Section):
    """LoRA test-time adaptation, apart from the searched rank, learning rate and number of steps."""

    targets: Annotated[list[Literal["attention", "mlp"]], Field(min_length=1)]
    alpha_over_rank: PositiveFloat
    condition: Literal["all", "prefix", "none"]
    timesteps: Literal["uniform", "logit_normal"]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: NonNegativeInt
    max_grad_norm: PositiveFloat
    seed: NonNegativeInt


class GenerationParams(Section):
    """Sampling of the continuation in ``v2v_head``."""

    num_inference_steps: PositiveInt
    guidance_scale: Annotated[float, Field(ge=1)]
    image_guidance_scale: Annotated[float, Field(ge=1)]
    guidance_oscillation: bool
    seed: NonNegativeInt


class EvaluationParams(Section):
    """Metrics on frames 34-65 and the paired statistics of the report."""

    lpips: Literal["auto", "required", "untrained"]
    bootstrap_samples: PositiveInt
    seed: NonNegativeInt


class SearchSpace(Section):
    """The candidates of each searched setting."""

    rank: Annotated[list[PositiveInt], Field(min_length=1)]
    learning_rate: Annotated[list[PositiveFloat], Field(min_length=1)]
    num_steps: Annotated[list[PositiveInt], Field(min_length=1)]


Measured = Literal[
    "psnr",
    "ssim",
    "lpips",
    "lpips_untrained",
    "temporal_consistency",
    "adapt_seconds_per_clip",
    "generate_seconds_per_clip",
    "peak_memory_mib",
]


class Objective(Section):
    """A mean over clips that the search optimises."""

    metric: Measured
    direction: Literal["minimize", "maximize"]


class Constraint(Section):
    """A mean over clips that a trial should keep at or below a value to count as feasible."""

    metric: Measured
    at_most: float


class SearchParams(Section):
    """The Optuna study. ``n_trials`` counts finished trials in all, over every run of the stage.

    ``storage`` is null for a journal file beside the other outputs, or the URL of a database.
    """

    study_name: str
    storage: str | None
    n_trials: PositiveInt
    num_clips: PositiveInt | None
    sampler: Literal["grid", "random", "tpe", "gp", "qmc", "nsgaii"]
    pruner: Literal["none", "wilcoxon", "median", "successive_halving", "hyperband"]
    objectives: Annotated[list[Objective], Field(min_length=1)]
    constraints: list[Constraint]
    seed: NonNegativeInt
    space: SearchSpace

    @model_validator(mode="after")
    def _pruner_has_one_objective(self) -> "SearchParams":
        if self.pruner != "none" and len(self.objectives) > 1:
            raise ValueError("pruner must be none with several objectives")
        return self

    @property
    def num_finished(self) -> int:
        """Finished trials the study shall have: ``n_trials``, or the size of the space if that is less."""
        space = self.space
        return min(self.n_trials, len(space.rank) * len(space.learning_rate) * len(space.num_steps))


class SlurmParams(Section):
    """What a worker asks of SLURM; null leaves an option to the cluster."""

    partition: str | None
    account: str | None
    time_minutes: PositiveInt
    gpus_per_worker: NonNegativeInt
    cpus_per_worker: PositiveInt
    memory_gb: PositiveInt | None
    max_requeues: NonNegativeInt


class WorkersParams(Section):
    """How many processes work on the study, and where. Results do not depend on it."""

    processes: PositiveInt
    heartbeat_seconds: PositiveFloat
    slurm: SlurmParams


class TrackingParams(Section):
    """MLflow: the store and the experiment the runs go to."""

    uri: str
    artifact_root: Path
    experiment: str


class CacheParams(Section):
    """The content-addressed store of finished work, shared by trials, stages, runs and processes."""

    path: Path
    max_gigabytes: PositiveFloat

    @property
    def max_bytes(self) -> int:
        """The limit in bytes."""
        return int(self.max_gigabytes * 1e9)


class Params(Section):
    """All of ``params.yaml``."""

    data: DataParams
    preprocess: PreprocessParams
    model: ModelParams
    adaptation: AdaptationParams
    generation: GenerationParams
    evaluation: EvaluationParams
    search: SearchParams
    workers: WorkersParams
    tracking: TrackingParams
    cache: CacheParams

    @model_validator(mode="after")
    def _lpips_can_be_measured(self) -> "Params":
        named = {item.metric for item in (*self.search.objectives, *self.search.constraints)}
        if "lpips" in named and self.evaluation.lpips != "required":
            raise ValueError("lpips in search.objectives or constraints needs evaluation.lpips: required")
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Parse and validate a ``params.yaml``.

    Raises:
        UserError: the file is missing, is not YAML, or has an unknown, missing or invalid key.
    """
    try:
        values = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise UserError(f"{path} not found: run the command in the repository's root") from None
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return validate_params(values, path)


def validate_params(values: object, path: Path) -> Params:
    """Validate parsed YAML; ``path`` is only named in the message."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'file'}: {item['msg']}"
            for item in error.errors()
        )
        raise UserError(f"{path}: {problems}") from None
