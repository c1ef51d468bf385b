"""One clip at one point: the seeds of its work and the keys under which the cache holds each part."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lora_tta.adaptation.methods import method_module
from lora_tta.backbones import backbone_module
from lora_tta.cache.keys import code_version, derive_seed, digest
from lora_tta.config import AdaptationParams, ModelParams, Params
from lora_tta.experiment.encoding import READING
from lora_tta.records.clips import Clip
from lora_tta.records.metric_table import METRICS
from lora_tta.records.yardsticks import LAST_FRAME, RECONSTRUCTION

YARDSTICK_CODE = "lora_tta.generation.yardsticks"


@dataclass(frozen=True)
class ClipWork:
    """The work on one clip.

    Attributes:
        clip: the preprocessed clip.
        adaptation: complete settings, None without adaptation.
        yardstick: name of the yardstick that the clip's continuation is, None if it is none.
        params: of the pipeline.
        environment: see :attr:`lora_tta.experiment.lazy_model.LazyModel.environment`.
        conditioning: SHA-256 of the file of the clip's conditioning.
        distance: name of the perceptual distance that is measured.
        sample: number of the continuation, from 0.
    """

    clip: Clip
    adaptation: AdaptationParams | None
    yardstick: str | None
    params: Params
    environment: Mapping[str, Any]
    conditioning: str
    distance: str
    sample: int = 0

    @property
    def adaptation_seed(self) -> int:
        """Seed of the initialisation and of all draws of the adaptation."""
        return derive_seed(self.params.adaptation.seed, self.clip.clip_id)

    @property
    def generation_seed(self) -> int:
        """Seed of the starting noise, the same with and without adaptation."""
        parts = [self.clip.clip_id, self.yardstick, f"sample {self.sample}" if self.sample else None]
        return derive_seed(self.params.generation.seed, " ".join(part for part in parts if part))

    @property
    def has_noise(self) -> bool:
        """Whether the continuation is sampled from noise."""
        return self.yardstick not in (LAST_FRAME, RECONSTRUCTION)

    @property
    def counts_for_fvd(self) -> bool:
        """Whether the set of videos that FVD is of has this continuation: the first one of each test clip."""
        return self.params.evaluation.fvd != "off" and self.clip.split == "test" and self.sample == 0

    def adapter_key(self, num_steps: int) -> dict[str, Any]:
        """Key of the adapted parameters after a number of steps."""
        return self._trajectory_key | {"num_steps": num_steps}

    @cached_property
    def trajectory_key(self) -> dict[str, Any]:
        """Key of the optimisation that passes through every number of steps."""
        return self._trajectory_key | {"num_steps": "any"}

    @cached_property
    def _trajectory_key(self) -> dict[str, Any]:
        if self.adaptation is None:
            raise ValueError("there is no adaptation")
        return {
            **self.environment,
            "code": adaptation_code(self.params.model, self.adaptation.method.name),
            "conditioning": self.conditioning,
            "adaptation": self.adaptation.model_dump(exclude={"num_steps"}),
            "seed": self.adaptation_seed,
        }

    @cached_property
    def continuation_key(self) -> dict[str, Any]:
        """Key of the generated video, or of the yardstick's."""
        if not self.has_noise:
            needs_model = self.yardstick == RECONSTRUCTION
            model_code = [backbone_module(self.params.model.backbone)] if needs_model else []
            return {
                **(self.environment if needs_model else {}),
                "code": code_version(YARDSTICK_CODE, READING, *model_code),
                "yardstick": self.yardstick,
                "clip": self.clip.sha256,
                "frames": self._frames,
            }
        return {
            **self.environment,
            "code": generation_code(self.params.model),
            "conditioning": self.conditioning,
            "adapter": None if self.adaptation is None else self.adapter_key(self.adaptation.num_steps),
            "generation": self.params.generation.model_dump(exclude={"num_samples", "sample_choice"}),
            "num_frames": self.clip.num_frames,
            "seed": self.generation_seed,
        }

    @property
    def _frames(self) -> dict[str, int]:
        return {"conditioning": self.clip.conditioning_frames, "all": self.clip.num_frames}

    @cached_property
    def result_key(self) -> dict[str, Any]:
        """Key of the measurements."""
        return {
            "continuation": self.continuation_key,
            "measuring": measuring_code(),
            "metrics": {row.name: [row.measure, row.distance] for row in METRICS},
            "frames": self._frames,
            "clip": self.clip.sha256,
            "class_name": self.clip.class_name,
            "distance": self.distance,
            "fvd": self.counts_for_fvd,
        }

    @cached_property
    def entries(self) -> dict[str, dict[str, Any]]:
        """The key of each kind of entry that the finished work has in the cache."""
        keys = {"continuation": self.continuation_key, "result": self.result_key}
        if self.adaptation is not None:
            keys["adapter"] = self.adapter_key(self.adaptation.num_steps)
        return keys

    @cached_property
    def name(self) -> str:
        """A short name of the whole work."""
        return digest(self.result_key)[:16]


def adaptation_code(model: ModelParams, method: str) -> str:
    """Version of the code that adapts a model to a clip."""
    return code_version(
        "lora_tta.adaptation.trajectory",
        "lora_tta.adaptation.stopping",
        "lora_tta.adaptation.augmentation",
        method_module(method),
        backbone_module(model.backbone),
        READING,
    )


def generation_code(model: ModelParams) -> str:
    """Version of the code that continues a clip."""
    return code_version("lora_tta.generation.continuation", backbone_module(model.backbone), READING)


def measuring_code() -> str:
    """Version of the code that measures a continuation."""
    modules = {row.measure.partition(":")[0] for row in METRICS}
    return code_version(
        "lora_tta.evaluation.metrics", "lora_tta.evaluation.video_features", *sorted(modules), READING
    )
