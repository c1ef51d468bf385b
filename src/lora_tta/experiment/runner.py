"""One clip through adaptation, generation and measurement, with every finished part kept in the cache."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from lora_tta.imports import without_garbage_collection

with without_garbage_collection():
    import numpy as np
    from filelock import Timeout

    from lora_tta.adaptation.methods.lora import load_adapter, remove_adapter
    from lora_tta.adaptation.trajectory import Snapshot, adapt
    from lora_tta.backbones.conditioning import Conditioning
    from lora_tta.cache.keys import derive_seed, file_sha256
    from lora_tta.cache.store import ContentCache
    from lora_tta.config import Params
    from lora_tta.data.video import read_clip_frames, write_video
    from lora_tta.evaluation.metrics import ContinuationMetrics
    from lora_tta.evaluation.perceptual import PerceptualDistance, load_perceptual_distance
    from lora_tta.experiment.clip_run import ClipRun
    from lora_tta.experiment.lazy_model import LazyModel
    from lora_tta.generation.continuation import generate_continuation
    from lora_tta.records.clips import CONDITIONING_FRAMES, Clip
    from lora_tta.records.metric_table import METRIC_DIRECTIONS, TRAINED_NAME, UNTRAINED_NAME
    from lora_tta.records.point import LoraSettings
    from lora_tta.records.results import ClipResult, read_results, write_results

VIDEO_NAME, FRAMES_NAME, COST_NAME = "continuation.mp4", "frames.npy", "cost.json"


class ClipRunner:
    """Runs clips with the model and settings of ``params``.

    Args:
        params: of the pipeline.
        clips: folder of the preprocessed clips.
        encoded: folder of the conditionings, ``<clip_id>.safetensors``.
        snapshot_steps: numbers of steps whose adapters are kept when a trajectory passes through them.
        device_index: which of several GPUs, modulo their number.
    """

    def __init__(
        self,
        params: Params,
        clips: Path,
        encoded: Path,
        snapshot_steps: Sequence[int] = (),
        device_index: int = 0,
    ):
        self.params = params
        self.clips = clips
        self.encoded = encoded
        self.snapshot_steps = snapshot_steps
        self.model = LazyModel(params.model, device_index)
        self.cache = ContentCache(params.cache.path, params.cache.max_bytes)

    def run(self, clip: Clip, settings: LoraSettings | None) -> ClipRun:
        """Continue a clip, adapted first unless ``settings`` is None, and measure frames 34-65."""
        with self.cache.lock(self._result_key(clip, settings) | {"part": "whole"}):
            return self._run(clip, settings)

    def try_run(self, clip: Clip, settings: LoraSettings | None) -> bool:
        """Do a clip in advance, unless it is done or in another process's hands; says whether it was."""
        key = self._result_key(clip, settings)
        lock = self.cache.lock(key | {"part": "whole"})
        try:
            with lock.acquire(timeout=0):
                if self.cache.find("result", key):
                    return False
                self._run(clip, settings)
                return True
        except Timeout:
            return False

    def _run(self, clip: Clip, settings: LoraSettings | None) -> ClipRun:
        adapter = None if settings is None else self._adapter(clip, settings)
        continuation = self._continuation(clip, settings, adapter)
        measured = self.cache.fetch(
            "result",
            self._result_key(clip, settings),
            lambda folder: write_results(folder, [self._measure(clip, continuation, adapter)]),
        )
        return ClipRun(
            clip=clip,
            result=read_results(measured)[0],
            video=continuation / VIDEO_NAME,
            frames_file=continuation / FRAMES_NAME,
            adapter=adapter,
        )

    @property
    def metric_names(self) -> list[str]:
        """The metrics that are measured, in their usual order."""
        other_distance = {TRAINED_NAME, UNTRAINED_NAME} - {self._distance.name}
        return [name for name in METRIC_DIRECTIONS if name not in other_distance]

    def setting(self, clips: Sequence[Clip]) -> dict:
        """All that the value of a trial on these clips depends on, besides its own settings."""
        return {
            **self.model.environment,
            "clips": [clip.sha256 for clip in clips],
            "conditionings": [file_sha256(self._conditioning_file(clip)) for clip in clips],
            "adaptation": self.params.adaptation.model_dump(),
            "generation": self.params.generation.model_dump(),
            "lpips": self._distance.name,
        }

    @cached_property
    def _distance(self) -> PerceptualDistance:
        return load_perceptual_distance(self.params.evaluation.lpips, self.model.device)

    def _adapter_key(self, clip: Clip, settings: LoraSettings, num_steps: int) -> dict:
        return {
            **self.model.environment,
            "conditioning": file_sha256(self._conditioning_file(clip)),
            "rank": settings.rank,
            "learning_rate": settings.learning_rate,
            "num_steps": num_steps,
            "adaptation": self.params.adaptation.model_dump(),
            "seed": derive_seed(self.params.adaptation.seed, clip.clip_id),
        }

    def _continuation_key(self, clip: Clip, settings: LoraSettings | None) -> dict:
        return {
            **self.model.environment,
            "conditioning": file_sha256(self._conditioning_file(clip)),
            "adapter": settings and self._adapter_key(clip, settings, settings.num_steps),
            "generation": self.params.generation.model_dump(),
            "seed": derive_seed(self.params.generation.seed, clip.clip_id),
        }

    def _result_key(self, clip: Clip, settings: LoraSettings | None) -> dict:
        return self._continuation_key(clip, settings) | {
            "clip": clip.sha256,
            "class_name": clip.class_name,
            "lpips": self._distance.name,
        }

    def _adapter(self, clip: Clip, settings: LoraSettings) -> Path:
        key = self._adapter_key(clip, settings, settings.num_steps)
        entry = self.cache.find("adapter", key)
        if entry is not None:
            return entry
        # One process at a time on a trajectory: the others find its snapshots when they get here.
        with self.cache.lock(key | {"num_steps": "any"}):
            return self.cache.find("adapter", key) or self._continue_trajectory(clip, settings)

    def _continue_trajectory(self, clip: Clip, settings: LoraSettings) -> Path:
        earlier = (
            self.cache.find("adapter", self._adapter_key(clip, settings, steps))
            for steps in sorted(self.snapshot_steps, reverse=True)
            if steps < settings.num_steps
        )
        start = next((Snapshot.load(entry) for entry in earlier if entry), None)
        snapshots = adapt(
            self.model.pipeline.transformer,
            self._conditioning(clip),
            settings,
            self.params.adaptation,
            derive_seed(self.params.adaptation.seed, clip.clip_id),
            save_at=self.snapshot_steps,
            start=start,
        )
        for snapshot in snapshots:
            entry = self.cache.fetch(
                "adapter", self._adapter_key(clip, settings, snapshot.num_steps), snapshot.save
            )
        return entry

    def _continuation(self, clip: Clip, settings: LoraSettings | None, adapter: Path | None) -> Path:
        def compute(folder: Path) -> None:
            if adapter is None:
                remove_adapter(self.model.pipeline.transformer)
            else:
                load_adapter(self.model.pipeline.transformer, adapter)
            continuation = generate_continuation(
                self.model.pipeline,
                self._conditioning(clip),
                self.params.generation,
                derive_seed(self.params.generation.seed, clip.clip_id),
            )
            np.save(folder / FRAMES_NAME, continuation.frames)
            write_video(folder / VIDEO_NAME, continuation.frames, clip.fps)
            cost = {"seconds": continuation.seconds, "peak_memory_bytes": continuation.peak_memory_bytes}
            (folder / COST_NAME).write_text(json.dumps(cost))

        return self.cache.fetch("continuation", self._continuation_key(clip, settings), compute)

    def _measure(self, clip: Clip, continuation: Path, adapter: Path | None) -> ClipResult:
        generated = np.load(continuation / FRAMES_NAME)[CONDITIONING_FRAMES:]
        target = read_clip_frames(self.clips, clip)[CONDITIONING_FRAMES:]
        cost = json.loads((continuation / COST_NAME).read_text())
        snapshot = None if adapter is None else Snapshot.load(adapter)
        return ClipResult(
            clip_id=clip.clip_id,
            class_name=clip.class_name,
            metrics=ContinuationMetrics(self._distance, self.model.device)(generated, target),
            losses=snapshot.losses if snapshot else (),
            adapt_seconds=snapshot.seconds if snapshot else 0.0,
            generate_seconds=cost["seconds"],
            peak_memory_bytes=max(cost["peak_memory_bytes"], snapshot.peak_memory_bytes if snapshot else 0),
        )

    def _conditioning_file(self, clip: Clip) -> Path:
        return self.encoded / f"{clip.clip_id}.safetensors"

    def _conditioning(self, clip: Clip) -> Conditioning:
        conditioning = Conditioning.load(self._conditioning_file(clip))
        return conditioning.to(self.model.device, self.model.pipeline.transformer.dtype)
