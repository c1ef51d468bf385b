"""``params.yaml`` as one typed, validated object: every setting of the pipeline, parsed once.

Sections follow the stages of ``dvc.yaml``. Unknown keys, wrong types and values out of range are
errors that name the key.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lora_tta.errors import UserError
from lora_tta.places import checked_name, checked_store, without_password
from lora_tta.records.metric_table import COSTS, METRICS, TRAINED_NAME
from lora_tta.records.point import Point
from lora_tta.records.space import TAGGED, TAGS, Choices, Dimension, Dimensions, Range, in_order, size

# What ruamel raises; the others at `!!int 1.5`, at lists as keys and at brackets without end.
NOT_YAML = (YAMLError, ValueError, TypeError, RecursionError)
_PACKAGE = Path(__file__).parent
# The models by the name of their module in `lora_tta.backbones`.
BACKBONES = {"opensora": "Open-Sora v2.0"}


def _nearest(name: str, names: Iterable[str]) -> str:
    """A proposal for a wrong name, empty if it resembles none."""
    near = get_close_matches(name, names, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _one_of(kind: str, names: Mapping[str, object]) -> AfterValidator:
    """Accept the given names only, and propose the nearest one."""

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"{name!r} is no {kind}{_nearest(name, names)}; known are {', '.join(names)}")
        return name

    return AfterValidator(check)


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


# Strict, so that a boolean is no number.
PositiveInt = Annotated[StrictInt, Field(ge=1)]
NonNegativeInt = Annotated[StrictInt, Field(ge=0)]
FiniteFloat = Annotated[float, Field(strict=True, allow_inf_nan=False)]
PositiveFloat = Annotated[FiniteFloat, Field(gt=0)]
Name = Annotated[str, AfterValidator(checked_name)]
PathOrURI = Annotated[str, BeforeValidator(lambda place: str(place) if isinstance(place, Path) else place)]
BETTER = {row.name: row.direction for row in METRICS}

# The least that the network behind FVD takes.
FVD_FRAMES = 16
# Frames of a latent frame of the VAE; the first one is of one frame alone.
FRAMES_PER_LATENT = 4


def _frames(rest: int, form: str) -> AfterValidator:
    """Accept numbers of frames that leave ``rest``, and propose the nearest ones."""

    def check(count: int) -> int:
        below = count - (count - rest) % FRAMES_PER_LATENT
        if below != count:
            near = [str(valid) for valid in (below, below + FRAMES_PER_LATENT) if valid > 0]
            raise ValueError(
                f"{count} is not {form}, as the VAE needs it: take {' or '.join(near)}, which are the nearest"
                if near[1:]
                else f"{count} is not {form}, as the VAE needs it: take at least {near[0]}"
            )
        return count

    return AfterValidator(check)


Measured = Annotated[
    str, _one_of("metric or cost", {row.name: row for rows in (METRICS, COSTS) for row in rows})
]


class Section(BaseModel):
    """Base of every section: immutable, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataParams(Section):
    """Where the raw clips are (UCF-101 layout or any folder of videos) and which official lists to keep to.

    Without ``search_list`` it is drawn which clips are for the search and which for the test; ``split_list``
    alone names the clips to draw from. With ``search_list`` its clips are for the search, and those of
    ``split_list`` for the test, or all others without ``split_list``.

    ``caption_suffix`` follows every caption.
    """

    root: Path
    search_list: Path | None
    split_list: Path | None
    caption_suffix: str | None


class PreprocessParams(Section):
    """Raw videos to H.264 clips; sizes in pixels, ``fps`` in frames per second.

    ``size`` gives every video height and width by its shape, and those below do not count.

    A clip is a window of ``conditioning_frames``, which the model sees, and ``generated_frames`` after them.
    A video gives ``windows_per_video``, or as many as it has room for, the start of each ``stride`` frames
    after that of the one before; None is after its end. ``window`` is where they all lie in the video.

    ``num_clips`` counts all clips, and ``search_clips`` those of them that are for the search.
    """

    size: Literal["256px", "768px"] | None
    height: Annotated[int, Field(ge=32, multiple_of=16)]
    width: Annotated[int, Field(ge=32, multiple_of=16)]
    fps: PositiveInt
    conditioning_frames: Annotated[PositiveInt, _frames(1, "4 k + 1")]
    generated_frames: Annotated[PositiveInt, _frames(0, "a multiple of 4")]
    window: Literal["first", "middle", "random"]
    windows_per_video: PositiveInt
    stride: PositiveInt | None
    num_clips: PositiveInt | None
    search_clips: PositiveInt
    seed: NonNegativeInt

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return self.conditioning_frames + self.generated_frames

    @model_validator(mode="after")
    def _clips_are_left_for_the_test(self) -> Self:
        if self.num_clips is not None and self.search_clips >= self.num_clips:
            raise ValueError(f"search_clips must be below num_clips ({self.num_clips}): the rest is the test")
        return self


class ModelParams(Section):
    """The model's kind and folder, and where and in which precision it runs.

    ``num_threads`` is fixed because sums on the CPU differ in their last bits with the number of threads.
    ``accelerate`` matters on a GPU only: compiled blocks and CUDA graphs.
    """

    backbone: Annotated[str, _one_of("model", BACKBONES)]
    path: Path
    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    num_threads: PositiveInt
    accelerate: StrictBool


class LoraParams(Section):
    """Low-rank adapters beside linear layers (LoRA, https://arxiv.org/abs/2106.09685), by PEFT.

    ``lora_alpha`` is ``alpha_over_rank`` times ``rank``. ``last_blocks`` leaves all but so many blocks at the
    end without adapters, ``pattern`` all layers whose path it does not match (``re.search``); null takes all.
    ``use_rslora`` scales by alpha / sqrt(rank) (https://arxiv.org/abs/2312.03732), ``use_dora`` trains the
    length of each row of the weights beside its direction (https://arxiv.org/abs/2402.09353).
    ``init_lora_weights`` is what the adapters start from, by PEFT's names.
    """

    name: Literal["lora"]
    rank: PositiveInt
    alpha_over_rank: PositiveFloat
    targets: Annotated[list[Literal["attention", "mlp"]], Field(min_length=1)]
    last_blocks: PositiveInt | None
    pattern: Annotated[str, AfterValidator(_regular_expression)] | None
    use_rslora: StrictBool
    use_dora: StrictBool
    init_lora_weights: Literal[True, "gaussian", "orthogonal", "pissa", "olora"]

    @model_validator(mode="after")
    def _start_goes_with_the_rest(self) -> Self:
        if self.init_lora_weights in ("pissa", "olora") and self.use_dora:
            raise ValueError(f"init_lora_weights {self.init_lora_weights} does not go with use_dora")
        if self.init_lora_weights == "orthogonal" and self.rank % 2:
            raise ValueError(f"init_lora_weights orthogonal takes an even rank, and rank is {self.rank}")
        return self


class OffsetParams(Section):
    """Vectors that are added to the embedding of time and caption, from which all modulation comes.

    There is one, zero at first, for each of ``groups`` groups of consecutive blocks of even sizes.
    """

    name: Literal["offset"]
    groups: PositiveInt


class NormsParams(Section):
    """The scales of the normalisation of queries and keys in every block."""

    name: Literal["norms"]


class FullParams(Section):
    """All weights of the network."""

    name: Literal["full"]


# Every method's own settings; the module of a method is `lora_tta.adaptation.methods.<name>`.
MethodParams = Annotated[LoraParams | OffsetParams | NormsParams | FullParams, Field(discriminator="name")]


def settings_by_method() -> dict[str, set[str]]:
    """The names of each method's own settings."""
    kinds = get_args(get_args(MethodParams)[0])
    return {
        get_args(kind.model_fields["name"].annotation)[0]: set(kind.model_fields) - {"name"} for kind in kinds
    }


class StoppingParams(Section):
    """How many steps a clip gets, if any, by the end of its known frames.

    The adaptation does not see the last ``held_out`` latent frames. They are continued from the others at
    ``draws`` fixed noises and times, and every ``every`` steps the error of that is looked at. ``patience``
    looks without a new least error end the adaptation, and the steps of the least error count. Where that
    error is not below the first one by a share of ``min_gain`` at least, the clip is not adapted. With
    ``refit``, the clip is then adapted on all known frames for as many steps.
    """

    held_out: PositiveInt
    every: PositiveInt
    patience: PositiveInt
    draws: PositiveInt
    min_gain: Annotated[FiniteFloat, Field(ge=0, lt=1)]
    refit: StrictBool


class AugmentationParams(Section):
    """Other views of the known frames, one of which, or the frames themselves, each step takes.

    ``flips`` mirrors, ``rotation`` turns by so many degrees either way and enlarges, ``crop`` shows so large
    a part of width and height, and ``speeds`` plays at half and double speed; 0 and 1 leave a view out.
    """

    flips: StrictBool
    rotation: Annotated[FiniteFloat, Field(ge=0, le=45)]
    crop: Annotated[FiniteFloat, Field(ge=0.5, le=1)]
    speeds: StrictBool


# Keys of the adaptation whose values are sections. The method is searched by its name.
NO_DIMENSIONS = ("name", "stopping", "augmentation")


class AdaptationParams(Section):
    """Test-time adaptation: the method, the loss and the optimisation. The search varies any of it.

    Without ``stopping`` every clip gets ``num_steps`` steps, and with it at most so many.
    """

    method: MethodParams
    condition: Literal["all", "prefix", "none"]
    scored: Literal["hidden", "all"]
    timesteps: Literal["uniform", "stratified", "logit_normal", "shifted"]
    learning_rate: PositiveFloat
    num_steps: PositiveInt
    stopping: StoppingParams | None
    augmentation: AugmentationParams | None
    weight_decay: Annotated[FiniteFloat, Field(ge=0)]
    warmup_steps: NonNegativeInt
    max_grad_norm: PositiveFloat
    seed: NonNegativeInt

    @model_validator(mode="after")
    def _looks_at_least_once(self) -> Self:
        if self.stopping is not None and self.stopping.every > self.num_steps:
            raise ValueError(
                f"stopping.every is above num_steps, {self.num_steps}, so nothing would be adapted: lower it "
                "or set stopping to null"
            )
        return self

    def at(self, point: Point) -> Self:
        """The same adaptation with the values of a point of the search space.

        ``method`` in the point is the name of a method. Settings of another method than this one's have to be
        in the point too.

        Raises:
            ValueError: a name of the point is no setting of the method or of the adaptation, or its value
                is invalid.
        """
        values: dict[str, Any] = self.model_dump()
        if (method := point.get("method", self.method.name)) != self.method.name:
            values["method"] = {"name": method}
        settings = settings_by_method().get(str(method), set())
        places = dict.fromkeys(values, values)
        for section in ("stopping", "augmentation"):
            places |= dict.fromkeys(values[section] or (), values[section])
        places |= dict.fromkeys(settings, values["method"])
        for name, value in point.items():
            if name not in places or name in NO_DIMENSIONS:
                known = [known for known in places if known not in NO_DIMENSIONS]
                near = get_close_matches(name, known, n=1)
                raise ValueError(f"{name} is no setting of adaptation{f', {near[0]} is' if near else ''}")
            if name != "method":
                places[name][name] = value
        return type(self).model_validate(values)


class GenerationParams(Section):
    """Sampling of the continuation.

    ``num_samples`` continuations of a clip differ in their starting noise alone; arms have the same noise.
    A clip's value is their ``mean``, or that of the ``medoid``: of the sample nearest to all others.
    """

    num_inference_steps: PositiveInt
    guidance_scale: Annotated[FiniteFloat, Field(ge=1)]
    image_guidance_scale: Annotated[FiniteFloat, Field(ge=1)]
    guidance_oscillation: StrictBool
    num_samples: PositiveInt
    sample_choice: Literal["mean", "medoid"]
    seed: NonNegativeInt

    @model_validator(mode="after")
    def _a_choice_has_something_to_choose_from(self) -> Self:
        if self.sample_choice == "medoid" and self.num_samples < 3:
            raise ValueError(
                f"sample_choice medoid takes num_samples of 3 or more, and it is {self.num_samples}: of two "
                "samples, none is nearer to the other"
            )
        return self


class EvaluationParams(Section):
    """Metrics on the generated frames and the paired statistics of the report.

    ``primary`` is the metric that the answer is given in; the others are secondary.
    """

    primary: Annotated[str, _one_of("metric", {row.name: row for row in METRICS})]
    lpips: Literal["auto", "required", "untrained"]
    fvd: Literal["off", "auto", "required"]
    bootstrap_samples: PositiveInt
    seed: NonNegativeInt


class SearchObjective(Section):
    """A mean over clips that the search optimises."""

    metric: Measured
    direction: Literal["minimize", "maximize"]

    @model_validator(mode="after")
    def _better_is_better(self) -> Self:
        better = BETTER.get(self.metric, "minimize")
        if self.direction != better:
            word = "higher" if better == "maximize" else "lower"
            raise ValueError(f"{self.metric} is better the {word} it is: direction must be {better}")
        return self


class Constraint(Section):
    """A mean over clips that a trial should keep at or below a value to count as feasible."""

    metric: Measured
    at_most: FiniteFloat

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        lowest = {row.name: row.lowest for row in METRICS}.get(self.metric)
        # A cost is above zero.
        if self.at_most <= 0 if lowest is None else self.at_most < lowest:
            raise ValueError(
                f"no trial can have {self.metric} at most {self.at_most:g}: it is never below {lowest or 0:g}"
            )
        return self


class WarmStartParams(Section):
    """The best ``points`` of an earlier study, which the study tries first.

    ``path`` is a ``best.json``, which has one, or an export of a study.
    """

    path: Path
    points: PositiveInt


class ScreeningParams(Section):
    """Trials at less cost, the best of which are then confirmed with all clips and sampling steps.

    Points are tried on the first ``num_clips`` clips with ``num_inference_steps`` sampling steps; null takes
    all. The best ``finalists`` are tried again, and one of these becomes the best point.
    """

    num_clips: PositiveInt | None
    num_inference_steps: PositiveInt | None
    finalists: PositiveInt


# The samplers that start with random trials, and learn from them.
LEARNING_SAMPLERS = ("tpe", "gp", "nsgaii")


class SearchParams(Section):
    """The Optuna study. ``n_trials`` counts all its trials, over every run of the stage.

    ``space`` maps the name of a setting of ``adaptation`` or of a method to the choices or the range of it.
    ``startup_trials`` of a sampler that learns are random; null takes Optuna's number.

    ``storage`` is null for a journal file in the cache's folder, or the URL of a database.
    """

    study_name: Name
    storage: Annotated[str, AfterValidator(without_password)] | None
    n_trials: PositiveInt
    num_clips: PositiveInt | None
    sampler: Literal["grid", "random", "tpe", "gp", "qmc", "nsgaii"]
    startup_trials: PositiveInt | None
    warm_start: WarmStartParams | None
    screening: ScreeningParams | None
    pruner: Literal["none", "wilcoxon", "median", "successive_halving", "hyperband"]
    objectives: Annotated[list[SearchObjective], Field(min_length=1)]
    constraints: list[Constraint]
    seed: NonNegativeInt
    space: Annotated[dict[str, Dimension], Field(min_length=1)]

    @model_validator(mode="after")
    def _pruner_has_one_objective(self) -> Self:
        if self.pruner != "none" and len(self.objectives) > 1:
            raise ValueError("pruner must be none with several objectives")
        return self

    @model_validator(mode="after")
    def _nothing_is_named_twice(self) -> Self:
        lists: dict[str, list[object]] = {
            f"space.{name}": list(dimension.choices)
            for name, dimension in self.dimensions.items()
            if isinstance(dimension, Choices)
        }
        lists |= {"objectives": [item.metric for item in self.objectives]}
        lists |= {"constraints": [item.metric for item in self.constraints]}
        for name, values in lists.items():
            if repeated := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"{name} holds {repeated[0]} twice")
        return self

    @model_validator(mode="after")
    def _sampler_takes_the_settings(self) -> Self:
        ranges = [name for name, dimension in self.dimensions.items() if isinstance(dimension, Range)]
        if self.sampler == "grid" and ranges:
            raise ValueError(
                f"the sampler grid takes lists alone, and space.{ranges[0]} is a range: list its values, or "
                "take another sampler"
            )
        if self.startup_trials is not None and self.sampler not in LEARNING_SAMPLERS:
            raise ValueError(
                f"startup_trials must be null: the sampler {self.sampler} never learns, "
                f"{', '.join(LEARNING_SAMPLERS)} do"
            )
        if self.sampler == "nsgaii" and self.startup_trials == 1:
            raise ValueError("startup_trials must be 2 or more for nsgaii: they are its first parents")
        return self

    @model_validator(mode="after")
    def _conditions_can_be_met(self) -> Self:
        for name, dimension in self.dimensions.items():
            for other, allowed in dimension.conditions().items():
                target = self.dimensions.get(other)
                if not isinstance(target, Choices) or target.when:
                    raise ValueError(
                        f"space.{name} depends on {other}, which must be a list of choices in the space, "
                        "without a condition of its own"
                    )
                if strange := [value for value in allowed if not target.holds(value)]:
                    raise ValueError(f"space.{name}: {strange[0]} is no choice of {other}")
        return self

    @property
    def dimensions(self) -> Dimensions:
        """The space in a form for each dimension; settings of methods are searched with these alone."""
        lists = {
            name: Choices(choices=dimension) if isinstance(dimension, list) else dimension
            for name, dimension in self.space.items()
        }
        methods = lists.get("method")
        if isinstance(methods, Choices):
            for name, dimension in lists.items():
                owners = [method for method, names in settings_by_method().items() if name in names]
                if owners and "method" not in dimension.when:
                    when = {"method": [method for method in methods.choices if method in owners]}
                    lists[name] = dimension.model_copy(update={"when": {**dimension.when, **when}})
        return in_order(lists)

    @property
    def num_trials(self) -> int:
        """Number of trials of the finished study: ``n_trials``, or the size of the space if that is less."""
        return int(min(self.n_trials, size(self.dimensions)))


class SlurmParams(Section):
    """The request of a worker to SLURM; null leaves an option to the cluster."""

    partition: str | None
    account: str | None
    time_minutes: PositiveInt
    gpus_per_worker: NonNegativeInt
    cpus_per_worker: PositiveInt
    memory_gb: PositiveInt | None
    max_requeues: NonNegativeInt


class WorkersParams(Section):
    """How many processes work on clips, and where. Results do not depend on it.

    ``processes`` is ``auto`` for one process on each GPU, or as many as cores and memory allow without one.
    """

    processes: PositiveInt | Literal["auto"]
    heartbeat_seconds: PositiveFloat
    slurm: SlurmParams


class TrackingParams(Section):
    """MLflow: the store and the experiment the runs go to.

    ``artifact_root`` is a path or a URI that MLflow takes. A server (``http``) has its own place instead.
    """

    uri: Annotated[str, AfterValidator(checked_store)]
    artifact_root: PathOrURI
    experiment: Name


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
    def _lpips_can_be_measured(self) -> Self:
        named = {item.metric for item in (*self.search.objectives, *self.search.constraints)}
        trained = named & {row.name for row in METRICS if row.distance == TRAINED_NAME}
        if trained and self.evaluation.lpips != "required":
            raise ValueError(
                f"{', '.join(sorted(trained))} in search.objectives or constraints needs "
                "evaluation.lpips: required"
            )
        return self

    @model_validator(mode="after")
    def _fvd_has_enough_frames(self) -> Self:
        frames = self.preprocess.generated_frames
        if self.evaluation.fvd != "off" and frames < FVD_FRAMES:
            raise ValueError(
                f"evaluation.fvd takes {FVD_FRAMES} frames: preprocess.generated_frames is {frames}"
            )
        return self

    @model_validator(mode="after")
    def _frames_are_left_to_adapt_to(self) -> Self:
        frames, stopping = self.preprocess.conditioning_frames, self.adaptation.stopping
        known = (frames - 1) // FRAMES_PER_LATENT + 1
        if stopping is not None and stopping.held_out > known - 2:
            allowed = f"hold out at most {known - 2}" if known > 2 else "set stopping to null"
            raise ValueError(
                f"adaptation.stopping.held_out is {stopping.held_out}, and the {frames} conditioning frames "
                f"are {known} latent ones, of which two must be left: {allowed}"
            )
        return self

    @model_validator(mode="after")
    def _screening_is_cheaper(self) -> Self:
        screening, steps = self.search.screening, self.generation.num_inference_steps
        if screening is None:
            return self
        if (screening.num_inference_steps or 0) > steps:
            raise ValueError(
                f"search.screening.num_inference_steps is above generation.num_inference_steps, {steps}"
            )
        if screening.num_clips is None and screening.num_inference_steps in (None, steps):
            raise ValueError("search.screening costs as much as no screening: give it fewer clips or steps")
        return self

    @model_validator(mode="after")
    def _space_is_of_adaptation(self) -> Self:
        for name, dimension in self.search.dimensions.items():
            if isinstance(dimension, Choices):
                for value in dimension.choices:
                    self._adaptation_with(name, value)
                continue
            self._adaptation_with(name, dimension.high)
            adaptation = self._adaptation_with(name, dimension.low)
            parts = adaptation, adaptation.method, adaptation.stopping, adaptation.augmentation
            takes_fractions = any(isinstance(getattr(part, name, None), float) for part in parts)
            if takes_fractions and dimension.is_whole and dimension.step is None:
                raise ValueError(
                    f"search.space.{name} takes fractions: write {dimension.low}.0 for a range of them, "
                    "or step: 1 for whole numbers"
                )
        return self

    def _adaptation_with(self, name: str, value: Any) -> AdaptationParams:
        """The adaptation at a point with this value."""
        point = self._point_with(name, value)
        try:
            return self.adaptation.at(point)
        except ValidationError as error:
            wrong = error.errors()[0]
            if wrong["type"] == "missing":
                raise ValueError(
                    f"search.space: the method {point['method']} has {wrong['loc'][-1]} too, which "
                    "the space must have; a list of one value is enough"
                ) from None
            raise ValueError(f"search.space.{name}: {value!r}: {wrong['msg']}") from None
        except ValueError as error:
            raise ValueError(f"search.space: {error}") from None

    def _point_with(self, name: str, value: Any) -> dict[str, Any]:
        """A part of a point: what it takes to have this value."""
        dimensions = self.search.dimensions
        point = {name: value}
        if name in dimensions:
            point |= {other: allowed[0] for other, allowed in dimensions[name].conditions().items()}
        if point.get("method", self.adaptation.method.name) != self.adaptation.method.name:
            for other in settings_by_method().get(str(point["method"]), ()):
                dimension = dimensions.get(other)
                if dimension is not None and other not in point:
                    point[other] = dimension.choices[0] if isinstance(dimension, Choices) else dimension.low
        return point


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Parse and validate a ``params.yaml``.

    Raises:
        UserError: the file is missing, is not YAML, or has an unknown, missing or invalid key.
    """
    try:
        values = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise UserError(f"{path} not found: run the command in the repository's root") from None
    except NOT_YAML as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return validate_params(values, path)


def load_own_or_packaged_params() -> Params:
    """The settings of ``params.yaml`` in this folder; where there is none, those that come with the package.

    Raises:
        UserError: see :func:`load_params`.
    """
    return load_params() if Path("params.yaml").exists() else load_packaged_params()


def load_packaged_params() -> Params:
    """The settings that come with the package, with the preset of the embedded model.

    Folders are looked for in the checkout that the package runs from; the model's in this folder first.

    Raises:
        UserError: see :func:`load_params`.
    """
    path = _PACKAGE / "params.yaml"
    yaml = YAML(typ="safe")
    values = yaml.load(path)
    for section, changed in yaml.load(_PACKAGE / "presets" / "embedded.yaml").items():
        values[section].update(changed)
    params = validate_params(values, path)
    checkout = path.resolve().parent
    model = params.model.path if params.model.path.is_dir() else checkout / params.model.path
    return params.model_copy(
        update={
            "data": params.data.model_copy(update={"root": checkout / params.data.root}),
            "model": params.model.model_copy(update={"path": model}),
        }
    )


def validate_params(values: object, path: Path) -> Params:
    """Validate parsed YAML; ``path`` is only named in the message."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(map(_problem, error.errors()))}") from None


def _problem(item: Mapping[str, Any]) -> str:
    """One error of pydantic as ``section.key: message``."""
    place = ".".join(str(part) for part in item["loc"] if part not in TAGS)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        *section, key = item["loc"]
        message = f"unknown key{_nearest(str(key), _keys_of(section))}"
    return f"{place}: {message}" if place else message


def _keys_of(section: Iterable[int | str]) -> Iterable[str]:
    """The keys that a section has, which is given by its place in the file."""
    kind: type[BaseModel] = Params
    for key in section:
        if key in TAGGED:
            kind = TAGGED[str(key)]
        elif key in kind.model_fields:
            annotation = kind.model_fields[str(key)].annotation
            parts = (annotation, *get_args(annotation))
            kinds = (part for part in parts if isinstance(part, type) and issubclass(part, BaseModel))
            kind = next(kinds, kind)
    return kind.model_fields
