"""One video, continued at once: neither stages nor a study, no cache, and nothing that is tracked."""

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from tqdm import tqdm

from lora_tta.adaptation.methods import MethodSlot
from lora_tta.adaptation.stopping import adapt_until_best
from lora_tta.adaptation.trajectory import Snapshot, adapt
from lora_tta.backbones.base import Backbone, Conditioning
from lora_tta.cache.keys import derive_seed
from lora_tta.config import AdaptationParams, ModelParams, Params, load_own_or_packaged_params
from lora_tta.data.captions import with_captions
from lora_tta.data.excerpt import read_excerpt
from lora_tta.data.folder import lies_in, printable
from lora_tta.data.rejection import RejectedError
from lora_tta.data.ucf101 import name_sources
from lora_tta.data.video import write_video
from lora_tta.errors import FailedWork, UserError
from lora_tta.evaluation.frame_metrics import psnr, ssim
from lora_tta.experiment.lazy_model import LazyModel
from lora_tta.generation.continuation import generate_continuation
from lora_tta.records.point import Point
from lora_tta.report.side_by_side import side_by_side

MEASURES = {"psnr": psnr, "ssim": ssim}


@dataclass(frozen=True)
class Continuation:
    """Known frames and how they go on; all frames are uint8 (T, H, W, 3) RGB.

    Attributes:
        start: when the first known frame is shown, in seconds.
        known: the frames that the model was given.
        generated: the new ones of the adapted model.
        truth: those that the video shows instead, None where it has ended.
        unadapted: the new ones without adaptation, from the same noise; None without ``truth``.
        losses: of each step of the adaptation.
        adapt_seconds: of the adaptation.
        generate_seconds: of all generated frames.
    """

    start: float
    known: np.ndarray
    generated: np.ndarray
    truth: np.ndarray | None
    unadapted: np.ndarray | None
    losses: tuple[float, ...]
    adapt_seconds: float
    generate_seconds: float

    @property
    def frames(self) -> np.ndarray:
        """The known frames and the generated ones."""
        return np.concatenate((self.known, self.generated))

    @property
    def metrics(self) -> dict[str, tuple[float, float]]:
        """PSNR (dB) and SSIM of the new frames, without and with adaptation; empty without ``truth``."""
        if self.truth is None or self.unadapted is None:
            return {}
        truth, unadapted, adapted = map(_tensor, (self.truth, self.unadapted, self.generated))
        return {
            name: (measure(unadapted, truth).value, measure(adapted, truth).value)
            for name, measure in MEASURES.items()
        }


@dataclass(frozen=True)
class ContinuedVideo:
    """What became of one video.

    Attributes:
        fps: of all frames, per second.
        prompt: that the model was given.
        prompt_from: where it comes from, in words.
        continuation: what follows the video, or the start that was asked for.
        comparison: a continuation with ``truth``: of the frames before the video's last ones, or the
            continuation itself; None if there are too few frames.
    """

    fps: int
    prompt: str
    prompt_from: str
    continuation: Continuation
    comparison: Continuation | None

    def write(self, path: str | Path) -> None:
        """Write the frames of the continuation, atomically; ``path`` ends in ``.mp4``."""
        write_video(Path(os.path.abspath(path)), self.continuation.frames, self.fps)

    def write_comparison(self, path: str | Path) -> None:
        """Write truth, continuation without adaptation and adapted one beside each other, atomically.

        Raises:
            ValueError: there is no comparison.
        """
        made = self.comparison
        if made is None or made.truth is None or made.unadapted is None:
            raise ValueError("there is no comparison")
        endings = {"truth": made.truth, "without adaptation": made.unadapted, "adapted": made.generated}
        videos = {name: np.concatenate((made.known, ending)) for name, ending in endings.items()}
        write_video(Path(os.path.abspath(path)), side_by_side(videos, len(made.known)), self.fps)


class _Part(NamedTuple):
    start: float
    known: np.ndarray
    truth: np.ndarray | None


def continue_video(
    video: str | Path,
    prompt: str | None = None,
    *,
    rank: int | None = None,
    num_steps: int | None = None,
    learning_rate: float | None = None,
    start: float | None = None,
    compare: bool = True,
    params: Params | None = None,
    progress: bool = False,
) -> ContinuedVideo:
    """Adapt the model to a video's last frames, and generate what follows.

    If the video has as many frames more as are generated, the model is adapted to the frames before these as
    well, and its continuation is compared with them.

    Args:
        video: any file that preprocessing reads.
        prompt: words for it; without one, the caption that preprocessing would give it.
        rank: of the method; like the next two, the settings' own if None.
        num_steps: of the adaptation, exactly so many: no stopping rule shortens it.
        learning_rate: of the adaptation.
        start: when the first known frame is shown, in seconds; None takes the last frames.
        compare: whether to compare with the truth.
        params: settings; None takes those of ``params.yaml`` in this folder, else the packaged ones.
        progress: whether to show bars on standard error.

    Raises:
        UserError: the video is none or too short, the model is missing, a setting is invalid, a caption
            cannot be read, memory runs out, or the result is not finite.
    """
    params = params or load_own_or_packaged_params()
    path = Path(video)
    chosen = {"rank": rank, "num_steps": num_steps, "learning_rate": learning_rate}
    own = params.adaptation if num_steps is None else params.adaptation.model_copy(update={"stopping": None})
    adaptation = changed(own, {name: value for name, value in chosen.items() if value is not None})
    _check_model(params.model)
    words, words_from = prompt_of(path, prompt, params)
    parts = _parts(path, params, start, compare)
    name = name_sources([path], path.parent)[0].clip_id
    seeds = derive_seed(params.adaptation.seed, name), derive_seed(params.generation.seed, name)
    with _failures_in_one_line(path):
        conditionings = _encode(params, [part.known for part in parts], words)
        model = LazyModel(params.model, params.cache.path)
        work = sum(adaptation.num_steps + (1 if part.truth is None else 2) for part in parts)
        with tqdm(total=work, unit="step", disable=not progress) as bar:
            continued = [
                _continue(model, params, adaptation, seeds, conditioning, part, bar)
                for conditioning, part in zip(conditionings, parts, strict=True)
            ]
    comparison = next((each for each in continued if each.truth is not None), None)
    return ContinuedVideo(params.preprocess.fps, words, words_from, continued[0], comparison)


def changed(adaptation: AdaptationParams, point: Point) -> AdaptationParams:
    """The adaptation with some settings changed.

    Raises:
        UserError: a value is invalid, or the method has no such setting.
    """
    try:
        return adaptation.at(point)
    except ValidationError as error:
        problems = (f"{item['loc'][-1]}: {item['msg']}" for item in error.errors())
        raise UserError("; ".join(problems)) from None
    except ValueError as error:
        raise UserError(f"method {adaptation.method.name}: {error}") from None


def prompt_of(path: Path, prompt: str | None, params: Params) -> tuple[str, str]:
    """The prompt of a video, with ``data.caption_suffix``, and where it comes from.

    Without a given one it is the caption that preprocessing would give, of ``data.root`` or else of the
    video's own folder.

    Raises:
        UserError: a text or table of captions cannot be read.
    """
    suffix = params.data.caption_suffix
    if prompt is not None:
        return " ".join([*prompt.split(), *([suffix] if suffix else [])]), "as given"
    path = Path(os.path.abspath(path))
    root = Path(os.path.abspath(params.data.root)) if lies_in(path, params.data.root) else path.parent
    [source] = name_sources([path], root)
    [captioned] = with_captions([source], root, suffix)
    beside = path.with_suffix(".txt")
    if beside.is_file() and beside != path:
        return captioned.caption, f"from {printable(beside.name)}"
    [bare] = with_captions([source], root, None)
    if bare.caption != source.caption:
        return captioned.caption, f"from the captions in {printable(str(root))}"
    return captioned.caption, "from its name" if path.parent == root else "from its class"


def _check_model(params: ModelParams) -> None:
    if not params.path.is_dir():
        raise UserError(
            f"the model's folder {params.path} is missing: `dvc pull models/embedded.dvc` in the repository "
            "brings the small model, and model.path in params.yaml names another"
        )


def _parts(path: Path, params: Params, start: float | None, compare: bool) -> list[_Part]:
    """What is to be continued: the end or the asked start first, then what the comparison needs."""
    form = params.preprocess
    known = form.conditioning_frames
    first = None if start is None else round(start * form.fps)
    try:
        size = form.size or (form.height, form.width)
        excerpt = read_excerpt(path, size, form.fps, form.num_frames, first)
    except RejectedError as rejected:
        raise UserError(f"{printable(str(path))} cannot be continued: {rejected.detail}") from None
    count = len(excerpt.frames)
    if count < known:
        behind = "" if start is None else f" from {start:g} s on"
        raise UserError(
            f"{printable(str(path))} has {count} frames at {form.fps} fps{behind}, and {known} "
            f"({known / form.fps:.2f} s) are needed: give a longer video"
            + (" or an earlier --start" if behind else "")
        )
    whole = compare and count == form.num_frames
    before = max(excerpt.available - count, 0) if first is None else first

    def part(begin: int, end: int) -> _Part:
        frames = excerpt.pixels(begin, end)
        truth = frames[known:] if end - begin > known else None
        return _Part((before + begin) / form.fps, frames[:known], truth)

    if first is not None:
        return [part(0, count if whole else known)]
    return [part(count - known, count), *([part(0, count)] if whole else [])]


def _encode(params: Params, videos: Iterable[np.ndarray], prompt: str) -> list[Conditioning]:
    """By a model of its own, since text encoders and network together may not fit into memory."""
    encoder = LazyModel(params.model, params.cache.path, for_encoding=True)
    encoded = [encoder.backbone.encode(known, prompt) for known in videos]
    on_gpu = encoder.device.type == "cuda"
    del encoder
    if on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
    return encoded


def _continue(
    model: LazyModel,
    params: Params,
    adaptation: AdaptationParams,
    seeds: tuple[int, int],
    conditioning: Conditioning,
    part: _Part,
    bar: tqdm,
) -> Continuation:
    backbone, (adaptation_seed, generation_seed) = model.backbone, seeds
    conditioning = conditioning.to(model.device, backbone.dtype)
    methods = MethodSlot(backbone)

    def generate() -> tuple[np.ndarray, float]:
        bar.set_description("generate")
        num_frames = params.preprocess.num_frames
        made = generate_continuation(backbone, conditioning, num_frames, params.generation, generation_seed)
        bar.update()
        return made.frames[len(part.known) :], made.seconds

    unadapted, seconds = (None, 0.0) if part.truth is None else generate()
    snapshot = _adapt(backbone, methods, conditioning, adaptation, adaptation_seed, bar)
    generated, more_seconds = generate()
    methods.clear()
    return Continuation(
        start=part.start,
        known=part.known,
        generated=generated,
        truth=part.truth,
        unadapted=unadapted,
        losses=snapshot.losses,
        adapt_seconds=snapshot.seconds,
        generate_seconds=seconds + more_seconds,
    )


def _adapt(
    backbone: Backbone,
    methods: MethodSlot,
    conditioning: Conditioning,
    adaptation: AdaptationParams,
    seed: int,
    bar: tqdm,
) -> Snapshot:
    """Adapt, and move the bar by the number of steps that was asked for."""
    bar.set_description("adapt")
    given = backbone, methods.put(adaptation.method), conditioning, adaptation
    if adaptation.stopping is None:
        # Snapshots in between are for the bar, and copy the parameters: some are enough.
        every = max(adaptation.num_steps // 20, 1)
        snapshots = adapt(*given, seed, save_at=range(every, adaptation.num_steps, every))
    else:
        snapshots = adapt_until_best(*given, adaptation.stopping, seed)
    moved = 0
    for last in snapshots:
        bar.update(last.num_steps - moved)
        moved = last.num_steps
    return last


@contextmanager
def _failures_in_one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except FailedWork as failure:
        raise UserError(f"{printable(str(path))} cannot be continued: {failure}") from None
    except torch.OutOfMemoryError:
        raise UserError(
            f"{printable(str(path))} cannot be continued: memory ran out; lower preprocess.height and width"
        ) from None


def _tensor(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float()
