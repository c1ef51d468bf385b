"""One clip through adaptation, generation and measurement, with every finished part kept in the cache."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from lora_tta.adaptation.methods import MethodSlot
from lora_tta.adaptation.methods.base import AdaptationMethod
from lora_tta.adaptation.stopping import adapt_until_best
from lora_tta.adaptation.trajectory import ADAPTER_FOLDER, AdaptationRecord, Snapshot, adapt
from lora_tta.backbones.base import Conditioning
from lora_tta.cache.store import ContentCache
from lora_tta.config import AdaptationParams, Params
from lora_tta.data.video import read_clip_frames, write_video
from lora_tta.evaluation.metrics import ContinuationMetrics
from lora_tta.evaluation.perceptual import PerceptualDistance, load_perceptual_distance
from lora_tta.evaluation.video_features import VideoFeatures
from lora_tta.experiment.beside import Beside
from lora_tta.experiment.clip_work import ClipWork, adaptation_code, generation_code, measuring_code
from lora_tta.experiment.entry import Entry
from lora_tta.experiment.lazy_model import LazyModel
from lora_tta.experiment.samples import of_samples
from lora_tta.experiment.searched import fixed_settings, kept_steps, searched_methods, searched_steps
from lora_tta.experiment.variants import encode_views
from lora_tta.files import file_sha256
from lora_tta.generation.continuation import Continuation, generate_continuation
from lora_tta.generation.yardsticks import reconstruct, repeat_last_frame
from lora_tta.models.speed.first_use import GPU_ALONE
from lora_tta.peak_memory import PeakMemory
from lora_tta.records.clips import Clip
from lora_tta.records.metric_table import ClipMetrics
from lora_tta.records.outcome import ClipOutcome
from lora_tta.records.point import Arm
from lora_tta.records.results import ClipResult, read_results, write_costs, write_results
from lora_tta.records.yardsticks import LAST_FRAME

# Those of two clips in five arms: their snapshots, files, measurements and logs. More would pile up in memory
# behind a slow disk, and with fewer the model would wait for the measurements of its last clip.
JOBS_BEHIND = 24
VIDEO_NAME, FRAMES_NAME, COST_NAME, COSTS_NAME = "continuation.mp4", "frames.npy", "cost.json", "costs.csv"


class ClipRunner:
    """Runs clips with the model and settings of ``params``.

    Args:
        params: of the pipeline.
        clips_folder: folder of the preprocessed clips.
        encoded: folder of the conditionings, ``<clip_id>.safetensors``.
    """

    def __init__(self, params: Params, clips_folder: Path, encoded: Path):
        self.clips_folder = clips_folder
        self.encoded = encoded
        self.model = LazyModel(params.model, params.cache.path)
        self.cache = ContentCache(params.cache.path, params.cache.max_bytes)
        self.beside = Beside(self.model.device.type == "cuda", params.model.num_threads)
        self._set(params)

    def at(self, params: Params) -> "ClipRunner":
        """A runner with other settings of adaptation, generation and search, and the same of all else."""
        # Made before the copy: the model holds one method at a time, so both have its one slot.
        _ = self._methods
        other = copy(self)
        other._set(params)
        return other

    def _set(self, params: Params) -> None:
        self.params = params
        # An adaptation leaves snapshots at numbers of steps that the search may ask for.
        self._searched_steps, self._snapshot_steps = searched_steps(params), kept_steps(params)
        self._known_works: dict[tuple, tuple[ClipWork, ...]] = {}

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep all that is found or made inside in the cache, and finish what has been begun, by the end."""
        with self.cache.leasing():
            try:
                yield
            finally:
                self.beside.wait()

    def run(self, clip: Clip, arm: Arm) -> ClipOutcome:
        """Continue a clip, adapted first if ``arm`` is a point, and measure the generated frames.

        The result is that of ``generation.num_samples`` samples, see :mod:`lora_tta.experiment.samples`.

        Raises:
            UserError: a file or the model cannot be read.
            FailedWork: losses, frames or metrics are not finite.
            torch.OutOfMemoryError: memory runs out with recomputation too.
        """
        with self.working():
            return self.begin(clip, arm).result()

    def begin(self, clip: Clip, arm: Arm) -> "Future[ClipOutcome]":
        """Do the model's work on a clip; what needs no model is done beside that of the next clip.

        To be called in :meth:`working`. Waits while the clip is in another process's hands, unless it is
        done. The same errors as of :meth:`run` come from here or from the future.
        """
        works = self._works(clip, arm)
        if self.is_done(clip, arm):
            return self._begin(works, None)
        lock = self._whole(works)
        self._wait_for(lock)
        return self._begin(works, lock)

    def try_begin(self, clip: Clip, arm: Arm) -> "Future[ClipOutcome] | None":
        """As :meth:`begin`, unless the clip is in another process's hands: then None."""
        works = self._works(clip, arm)
        lock = self._whole(works)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return self._begin(works, lock)

    def is_done(self, clip: Clip, arm: Arm) -> bool:
        """Whether the cache holds the clip's adapter, continuations and measurements."""
        return all(
            self.cache.find(kind, key)
            for work in self._works(clip, arm)
            for kind, key in work.entries.items()
        )

    def study_identity(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """Everything that the value of a trial on these clips depends on, besides its point."""
        params = self.params
        return {
            **self.model.environment,
            "code": [
                *(adaptation_code(params.model, method) for method in searched_methods(params)),
                generation_code(params.model),
                measuring_code(),
            ],
            "clips": [clip.sha256 for clip in clips],
            "conditionings": [file_sha256(self._conditioning_file(clip)) for clip in clips],
            "adaptation": fixed_settings(params),
            "generation": params.generation.model_dump(),
            "distance": self._distance.name,
        }

    @property
    def metric_names(self) -> list[str]:
        """The metrics that are measured, in their usual order."""
        return self._measure.metric_names

    def _works(self, clip: Clip, arm: Arm) -> tuple[ClipWork, ...]:
        """The work on each sample of a clip; they differ in nothing but their noise."""
        point, yardstick = (None, arm) if arm is None or isinstance(arm, str) else (arm, None)
        key = (clip.clip_id, yardstick, None if point is None else tuple(point.items()))
        if key not in self._known_works:
            work = ClipWork(
                clip=clip,
                adaptation=None if point is None else self.params.adaptation.at(point),
                yardstick=yardstick,
                params=self.params,
                environment=self.model.environment,
                conditioning=file_sha256(self._conditioning_file(clip)),
                distance=self._distance.name,
            )
            count = self.params.generation.num_samples if work.has_noise else 1
            self._known_works[key] = tuple(replace(work, sample=number) for number in range(count))
        return self._known_works[key]

    def _whole(self, works: Sequence[ClipWork]) -> FileLock:
        """The lock under which one process at a time works on a clip at a point."""
        return self.cache.lock(works[0].result_key | {"part": "whole"}, thread_local=False)

    def _wait_for(self, lock: FileLock) -> None:
        """Acquire a lock that another process holds, or this one until the thread beside has let go of it."""
        try:
            lock.acquire(timeout=0)
        except Timeout:
            # filelock would see a deadlock: it counts a lock as its thread's, whoever is to release it.
            self.beside.wait()
            lock.acquire()

    def _begin(self, works: Sequence[ClipWork], lock: FileLock | None) -> "Future[ClipOutcome]":
        """Do the model's work, and leave the rest, after which the lock is released, to the thread beside."""
        release = lock.release if lock else lambda: None
        self.beside.wait(keep=JOBS_BEHIND)
        try:
            adaptation = works[0].adaptation
            adapter = None if adaptation is None else self._adapter(works[0], adaptation)
            continuations = [self._continuation(work, adapter) for work in works]
        except BaseException:
            release()
            raise

        def finish() -> ClipOutcome:
            try:
                with self.cache.leasing():
                    folder = None if adapter is None else adapter()
                    outcomes = [
                        self._outcome(work, continuation(), folder)
                        for work, continuation in zip(works, continuations, strict=True)
                    ]
                    return of_samples(outcomes, self.params.generation)
            finally:
                release()

        return self.beside.submit(finish)

    def _outcome(self, work: ClipWork, continuation: Path, adapter: Path | None) -> ClipOutcome:
        def measure(folder: Path) -> None:
            results = [self._result(work, continuation, adapter)]
            write_results(folder, results)
            write_costs(folder / COSTS_NAME, results)

        measured = self.cache.fetch("result", work.result_key, measure)
        return ClipOutcome(
            clip=work.clip,
            # No measurement is made of these, so they are no part of the cache's entry.
            result=replace(
                read_results(measured, measured / COSTS_NAME)[0],
                split=work.clip.split,
                frames_sha256=work.clip.frames_sha256,
                seed=work.generation_seed if work.has_noise else None,
            ),
            video=continuation / VIDEO_NAME,
            frames_file=continuation / FRAMES_NAME,
            adapter=adapter and adapter / ADAPTER_FOLDER,
        )

    @cached_property
    def _distance(self) -> PerceptualDistance:
        return load_perceptual_distance(self.params.evaluation.lpips, self.model.device)

    @cached_property
    def _measure(self) -> ContinuationMetrics:
        return ContinuationMetrics(self._distance, self.model.device)

    @cached_property
    def _methods(self) -> MethodSlot:
        return MethodSlot(self.model.backbone)

    def _adapter(self, work: ClipWork, adaptation: AdaptationParams) -> Entry:
        """Adapt the model to the clip, unless the cache holds the adapter."""
        key = work.adapter_key(adaptation.num_steps)
        if entry := self.cache.find("adapter", key):
            return Entry.of_adapter(entry)
        # One process at a time on a trajectory: the others find its snapshots when they get here.
        lock = self.cache.lock(work.trajectory_key, thread_local=False)
        self._wait_for(lock)
        saved: list[Future[Path]] = []
        try:
            if entry := self.cache.find("adapter", key):
                return Entry.of_adapter(entry)
            steps = 0
            for snapshot, future in self._continue_trajectory(work, adaptation):
                saved.append(future)
                steps = len(snapshot.losses)
            return Entry(
                lambda: [future.result() for future in saved][-1], in_model=True, as_it_was=not steps
            )
        finally:
            self.beside.submit(lock.release)

    def _continue_trajectory(
        self, work: ClipWork, adaptation: AdaptationParams
    ) -> "Iterator[tuple[Snapshot, Future[Path]]]":
        """Adapt from the furthest snapshot; the new ones are saved beside the work, in the order of steps."""
        method = self._methods.put(adaptation.method)
        conditioning, seed = self._conditioning(work.clip), work.adaptation_seed
        given = self.model.backbone, method, conditioning, adaptation
        views = encode_views(self.model, self.cache, self.clips_folder, work, conditioning)
        options: dict[str, Any] = {"save_at": self._snapshot_steps, "variants": views}
        if adaptation.stopping is None:
            options["start"] = self._furthest_snapshot(work, method, adaptation.num_steps)
            snapshots = adapt(*given, seed, **options)
        else:
            snapshots = adapt_until_best(*given, adaptation.stopping, seed, **options)

        def save(snapshot: Snapshot) -> Path:
            key = work.adapter_key(snapshot.num_steps)
            if snapshot.optimizer:
                self.cache.fetch("optimizer", key, snapshot.save_optimizer)
            return self.cache.fetch("adapter", key, lambda folder: snapshot.save(method, folder))

        for snapshot in snapshots:
            yield snapshot, self.beside.submit(partial(save, snapshot))

    def _furthest_snapshot(self, work: ClipWork, method: AdaptationMethod, num_steps: int) -> Snapshot | None:
        """What the cache has of the trajectory before a number of steps."""
        for steps in sorted(self._searched_steps, reverse=True):
            if steps < num_steps:
                key = work.adapter_key(steps)
                adapter, optimizer = (self.cache.find(kind, key) for kind in ("adapter", "optimizer"))
                if adapter and optimizer:
                    return Snapshot.load(method, adapter, optimizer)
        return None

    def _continuation(self, work: ClipWork, adapter: Entry | None) -> Entry:
        """Continue the clip, unless the cache holds its continuation."""
        if entry := self.cache.find("continuation", work.continuation_key):
            return Entry(entry)
        if adapter is not None and adapter.as_it_was:
            # From the same noise the model continues the clip as without adaptation.
            unadapted = self._continuation(replace(work, adaptation=None), None)
            return self._kept_continuation(work, unadapted.copy_to)
        if not work.has_noise:
            continuation = self._yardstick(work)
        else:
            if work.adaptation is None or adapter is None:
                self._methods.clear()
            elif not adapter.in_model:
                self._methods.put(work.adaptation.method).load(adapter() / ADAPTER_FOLDER)
                adapter.in_model = True
            given = self._conditioning(work.clip), work.clip.num_frames, self.params.generation
            continuation = generate_continuation(self.model.backbone, *given, work.generation_seed)

        def save(folder: Path) -> None:
            np.save(folder / FRAMES_NAME, continuation.frames)
            write_video(folder / VIDEO_NAME, continuation.frames, work.clip.fps)
            cost = {"seconds": continuation.seconds, "peak_memory_bytes": continuation.peak_memory_bytes}
            (folder / COST_NAME).write_text(json.dumps(cost))

        return self._kept_continuation(work, save)

    def _kept_continuation(self, work: ClipWork, save: Callable[[Path], None]) -> Entry:
        """Keep it at once, and not with the clip's other samples, so that no frames pile up."""
        saved = self.beside.submit(lambda: self.cache.fetch("continuation", work.continuation_key, save))
        return Entry(saved.result)

    def _yardstick(self, work: ClipWork) -> Continuation:
        frames = read_clip_frames(self.clips_folder, work.clip)
        if work.yardstick == LAST_FRAME:
            still = repeat_last_frame(frames, work.clip.conditioning_frames)
            return Continuation(still, seconds=0.0, peak_memory_bytes=0)
        memory, began = PeakMemory(self.model.device), time.perf_counter()
        frames = reconstruct(self.model.backbone, frames)
        return Continuation(frames, time.perf_counter() - began, memory.bytes())

    @cached_property
    def _features(self) -> VideoFeatures:
        return VideoFeatures(self.model.device)

    def _result(self, work: ClipWork, continuation: Path, adapter: Path | None) -> ClipResult:
        known = work.clip.conditioning_frames
        generated = np.load(continuation / FRAMES_NAME)[known:]
        target = read_clip_frames(self.clips_folder, work.clip)[known:]
        cost = json.loads((continuation / COST_NAME).read_text())
        adaptation = None if adapter is None else AdaptationRecord.load(adapter)
        metrics, features = self._measured(generated, target, work.counts_for_fvd)
        return ClipResult(
            clip_id=work.clip.clip_id,
            class_name=work.clip.class_name,
            conditioning_frames=known,
            metrics=metrics,
            features=features,
            losses=adaptation.losses if adaptation else (),
            work=work.name,
            device=self.model.device_name,
            adapt_seconds=adaptation.seconds if adaptation else 0.0,
            generate_seconds=cost["seconds"],
            peak_memory_bytes=max(
                cost["peak_memory_bytes"], adaptation.peak_memory_bytes if adaptation else 0
            ),
        )

    def _measured(
        self, generated: np.ndarray, target: np.ndarray, with_features: bool
    ) -> tuple[ClipMetrics, np.ndarray | None]:
        """The metrics, and the features of both (2, k) for FVD."""
        with ExitStack() as stack:
            if self.model.device.type == "cuda":
                # Beside the model's work, and never while one of its graphs is captured.
                stack.enter_context(GPU_ALONE)
                stack.enter_context(torch.cuda.device(self.model.device))
                stack.enter_context(torch.cuda.stream(self._stream))
            videos = (generated, target) if with_features else ()
            features = [self._features(video) for video in videos]
            return self._measure(generated, target), np.stack(features) if features else None

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.model.device)

    def _conditioning_file(self, clip: Clip) -> Path:
        return self.encoded / f"{clip.clip_id}.safetensors"

    def _conditioning(self, clip: Clip) -> Conditioning:
        conditioning = Conditioning.load(self._conditioning_file(clip))
        return conditioning.to(self.model.device, self.model.backbone.dtype)
