"""Procedural video clips: the data of the embedded experiment and of the embedded model's training.

A class is a rule for drawing a layered scene (``lora_tta.embedded.layered_scene``). Times are in seconds, so
the frame rate changes the sampling of a motion and not the motion.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lora_tta.embedded.layered_scene import (
    MOTION_FIELDS,
    NUM_WAVES,
    Layer,
    Scene,
    render_scenes,
    rotation,
    stack_layers,
)
from lora_tta.files import atomic

DATASET_SEED = 1_000_000_000  # far from the seeds that training draws from, which count up from 0
MIDDLE = 1.35  # seconds; frame 33 at 24 fps, where zooms and crossing objects are centred


def _signed(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high) * rng.choice((-1.0, 1.0)))


def _texture(rng: np.random.Generator, held_out: bool, kind: str | None = None) -> dict:
    """Draw a texture. Held-out classes have their own kinds (dots, rings) and warmer, darker colours."""
    kind = kind or rng.choice(("dots", "rings") if held_out else ("plaid", "checks", "stripes", "cloud"))
    angle, wavelength = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.55)
    turns = {
        "plaid": (0.0, 0.5, 0.25),
        "checks": (0.0, 0.5, 0.25),
        "stripes": (0.0, 0.04, 0.5),
        "cloud": tuple(rng.uniform(0, 1, 3)),
        "dots": (0.0, 1 / 3, 2 / 3),
        "rings": (0.0, 0.5, 0.25),
        "spokes": (0.0, 0.5, 0.25),
    }[kind]
    lengths = wavelength * np.array((1.0, rng.uniform(0.9, 1.4), rng.uniform(1.5, 2.5)))
    if kind == "dots":
        lengths[:] = wavelength
    directions = angle + np.pi * np.array(turns)
    waves = 2 * np.pi / lengths[:, None] * np.stack((np.cos(directions), np.sin(directions)), axis=1)
    weights = {
        "rings": (0.25, 0.0, 0.2, 1.0, 0.0),
        "spokes": (0.0, 0.0, 0.35, 0.35, 1.0),
        "stripes": (1.0, 0.5, 0.4, 0.0, 0.0),
    }.get(kind, (1.0, 0.8, 0.6, 0.0, 0.0))
    hues = rng.normal(size=(NUM_WAVES + 2, 3))
    hues += 0.25 * np.sign(hues.sum(axis=1, keepdims=True))  # brightness varies somewhat more than colour
    hues /= np.abs(hues).max(axis=1, keepdims=True)
    colours = hues * np.array(weights)[:, None]
    colours *= rng.uniform(0.26, 0.36) / np.abs(colours).sum(axis=0).mean()
    base = rng.normal((0.52, 0.42, 0.32), 0.04) if held_out else rng.uniform(0.36, 0.64, 3)
    return {
        "base": base,
        "colours": colours,
        "waves": waves,
        "phases": rng.uniform(0, 2 * np.pi, NUM_WAVES + 2),
        "gain": 1.6 if kind == "checks" else rng.uniform(0.1, 0.8),
        "ring_frequency": 2 * np.pi / rng.uniform(0.3, 0.45),
        "ring_centre": rng.uniform(-0.3, 0.3, 2) if kind == "rings" else np.zeros(2),
        "spokes": float(rng.integers(3, 7)),
    }


def _camera(
    t: np.ndarray, velocity=(0.0, 0.0), zoom: float = 0.0, roll: float = 0.0, pivot=(0.0, 0.0)
) -> dict:
    """Background under a camera of constant velocity, zoom rate (1/s), and roll (rad/s) round ``pivot``."""
    pivot = np.asarray(pivot)
    matrix = np.exp(-zoom * (t - MIDDLE))[:, None, None] * rotation(roll * t)
    return {"matrix": matrix, "offset": t[:, None] * np.asarray(velocity) - matrix @ pivot, "bounded": 0.0}


def _slow_pan(rng: np.random.Generator, t: np.ndarray) -> dict:
    direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.12, 0.26)
    return _camera(t, speed * np.array((np.cos(direction), np.sin(direction))))


def _placed(centre: np.ndarray, angle: np.ndarray, size, stretch: np.ndarray | float = 1.0) -> dict:
    """An object at ``centre`` (frames, 2), turned by ``angle`` (frames,), of half extents ``size``."""
    size = np.broadcast_to(np.asarray(size, dtype=float), (2,))
    stretch = np.broadcast_to(stretch, angle.shape)
    extents = size * np.stack((stretch, 1 / stretch), axis=-1)
    matrix = rotation(-angle) / extents[:, :, None]
    return {"matrix": matrix, "offset": -np.einsum("tij,tj->ti", matrix, centre), "size": size}


def _between_walls(position: np.ndarray, wall: float) -> np.ndarray:
    """Reflect free motion into [-wall, wall]."""
    return wall - np.abs((position + wall) % (4 * wall) - 2 * wall)


def _line(t: np.ndarray, middle, velocity) -> np.ndarray:
    return np.asarray(middle) + (t - MIDDLE)[:, None] * np.asarray(velocity)


def _camera_pan(rng: np.random.Generator, t: np.ndarray, look: Callable[..., dict]) -> list[Layer]:
    direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.6)
    return [Layer(**look(), **_camera(t, speed * np.array((np.cos(direction), 0.55 * np.sin(direction)))))]


def _camera_zoom(rng: np.random.Generator, t: np.ndarray, look: Callable[..., dict]) -> list[Layer]:
    return [Layer(**look(), **_camera(t, zoom=_signed(rng, 0.18, 0.32), pivot=rng.uniform(-0.3, 0.3, 2)))]


def _camera_roll(rng: np.random.Generator, t: np.ndarray, look: Callable[..., dict]) -> list[Layer]:
    return [Layer(**look(), **_camera(t, roll=_signed(rng, 0.35, 0.9), pivot=rng.uniform(-0.3, 0.3, 2)))]


def _bouncing_ball(rng: np.random.Generator, t: np.ndarray, look: Callable[..., dict]) -> list[Layer]:
    layers = [Layer(**look(), **_slow_pan(rng, t))]
    for _ in range(2):
        radius, height, gravity = rng.uniform(0.24, 0.38), rng.uniform(0.25, 0.55), rng.uniform(2.5, 4.5)
        phase = (t / np.sqrt(8 * height / gravity) + rng.uniform()) % 1
        y = 0.54 - radius - 4 * height * phase * (1 - phase)
        x = _between_walls(rng.uniform(-0.6, 0.6) + _signed(rng, 0.2, 0.5) * t, 1 - radius)
        motion = _placed(np.stack((x, y), axis=1), _signed(rng, 0.3, 1.2) * t, radius)
        layers.append(Layer(**look(), **motion, shading=0.3))
    return layers


def _spinning_wheel(rng: np.random.Generator, t: np.ndarray, look: Callable[..., dict]) -> list[Layer]:
    layers = [Layer(**look(), **_slow_pan(rng, t))]
    for side in (-1, 1):
        radius = rng.uniform(0.36, 0.52)
        centre = _line(
            t, (side * rng.uniform(0.4, 0.55), rng.uniform(-0.12, 0.12)), rng.uniform(-0.06, 0.06, 2)
        )
        motion = _placed(centre, rng.uniform(0, 6) + _signed(rng, 0.6, 1.8) * t, radius)
        layers.append(Layer(**look("spokes"), **motion))
    return layers


def _drifting_boxes(rng: np.random.Generator, t: np.ndarray, look: Callable[..., dict]) -> list[Layer]:
    layers = [Layer(**look(), **_slow_pan(rng, t))]
    for x in (-0.6, 0.0, 0.6):
        centre = _line(t, (x + rng.uniform(-0.2, 0.2), rng.uniform(-0.3, 0.3)), rng.uniform(-0.45, 0.45, 2))
        motion = _placed(centre, rng.uniform(0, 6) + _signed(rng, 0.2, 0.8) * t, rng.uniform(0.22, 0.4, 2))
        layers.append(Layer(**look(), **motion, exponent=8.0))
    return layers


def _breathing_blob(rng: np.random.Generator, t: np.ndarray, look: Callable[..., dict]) -> list[Layer]:
    layers = [Layer(**look(), **_slow_pan(rng, t))]
    centre = _line(t, rng.uniform(-0.3, 0.3, 2) * (1, 0.3), rng.uniform(-0.15, 0.15, 2))
    stretch = np.exp(rng.uniform(0.15, 0.3) * np.sin(rng.uniform(4.5, 7.5) * t + rng.uniform(0, 6)))
    motion = _placed(centre, rng.uniform(0, 6) + _signed(rng, 0.0, 0.4) * t, rng.uniform(0.42, 0.55), stretch)
    lobes = {"lobes": float(rng.integers(3, 6)), "lobe_depth": rng.uniform(0.08, 0.18)}
    layers.append(Layer(**look(), **motion, **lobes, lobe_phase=_signed(rng, 1.0, 3.0) * t))
    return layers


def _conveyor_belts(rng: np.random.Generator, t: np.ndarray, look: Callable[..., dict]) -> list[Layer]:
    sign = rng.choice((-1.0, 1.0))
    layers = [Layer(**look(), **_camera(t, (sign * rng.uniform(0.25, 0.5), 0.0)))]
    for y in (-0.75, 0.75):
        resting = _placed(np.tile((0.0, y), (len(t), 1)), 0 * t, (4.0, rng.uniform(0.45, 0.58)))
        slide = t[:, None] * np.array((-sign * rng.uniform(0.25, 0.6), 0.0))
        layers.append(Layer(**look(), **resting, exponent=8.0, slide=slide))
    return layers


def _rippling_flag(rng: np.random.Generator, t: np.ndarray, look: Callable[..., dict]) -> list[Layer]:
    direction = rng.uniform(-0.5, 0.5)
    along, across = (
        np.array((np.cos(direction), np.sin(direction))),
        np.array((-np.sin(direction), np.cos(direction))),
    )
    ripple = rng.uniform(0.06, 0.1) * (across + 0.5 * along)
    wave = 2 * np.pi / rng.uniform(0.9, 1.5) * along
    motion = _camera(t, rng.uniform(-0.12, 0.12, 2))
    return [
        Layer(**look(), **motion, ripple=ripple, ripple_wave=wave, ripple_phase=_signed(rng, 4.0, 7.0) * t)
    ]


def _swinging_pendulum(rng: np.random.Generator, t: np.ndarray, look: Callable[..., dict]) -> list[Layer]:
    layers = [Layer(**look(), **_slow_pan(rng, t))]
    pivot, length = np.array((rng.uniform(-0.25, 0.25), -0.95)), rng.uniform(0.9, 1.1)
    angle = rng.uniform(0.4, 0.75) * np.sin(rng.uniform(2.5, 4.0) * t + rng.uniform(0, 6))
    arm = np.stack((-np.sin(angle), np.cos(angle)), axis=1)
    rod = _placed(pivot + 0.5 * length * arm, angle, (0.04, 0.5 * length))
    bob = _placed(pivot + length * arm, angle, rng.uniform(0.3, 0.42))
    return [*layers, Layer(**look(), **rod, exponent=8.0), Layer(**look("rings"), **bob, shading=0.25)]


_TRAINING: dict[str, Callable[..., list[Layer]]] = {
    "CameraPan": _camera_pan,
    "CameraZoom": _camera_zoom,
    "CameraRoll": _camera_roll,
    "BouncingBall": _bouncing_ball,
    "SpinningWheel": _spinning_wheel,
    "DriftingBoxes": _drifting_boxes,
    "BreathingBlob": _breathing_blob,
}
_HELD_OUT: dict[str, Callable[..., list[Layer]]] = {
    "ConveyorBelts": _conveyor_belts,
    "RipplingFlag": _rippling_flag,
    "SwingingPendulum": _swinging_pendulum,
}
TRAINING_CLASSES = tuple(_TRAINING)
HELD_OUT_CLASSES = tuple(_HELD_OUT)
CLASSES = TRAINING_CLASSES + HELD_OUT_CLASSES


def draw_scene(class_name: str, seed: int, num_frames: int, fps: float) -> Scene:
    """Draw one clip's scene: float32 CPU tensors (layers, ...), the same for the same arguments.

    Args:
        class_name: one of ``CLASSES``.
        seed: 0 or more; different classes with the same seed are independent.
        num_frames: frames in the clip.
        fps: frames per second.

    Raises:
        KeyError: for an unknown class.
    """
    held_out = class_name in _HELD_OUT
    draw_layers = (_HELD_OUT if held_out else _TRAINING)[class_name]
    rng = np.random.default_rng((seed, CLASSES.index(class_name)))
    layers = draw_layers(rng, np.arange(num_frames) / fps, lambda kind=None: _texture(rng, held_out, kind))
    return stack_layers(layers)


def render_clip(
    class_name: str,
    seed: int,
    num_frames: int = 65,
    height: int = 64,
    width: int = 112,
    fps: float = 24.0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Render one clip: (frames, 3, height, width), float32 in [0, 1]; arguments as for ``draw_scene``."""
    scene = draw_scene(class_name, seed, num_frames, fps)
    return render_scenes({name: value[None].to(device) for name, value in scene.items()}, height, width)[0]


def _render_frames(scene: Scene, height: int, width: int, piece: int = 8) -> Tensor:
    """Render one scene a few frames at a time: (frames, height, width, 3) uint8."""
    pictures = []
    for start in range(0, scene["matrix"].shape[1], piece):
        part = {k: v[:, start : start + piece] if k in MOTION_FIELDS else v for k, v in scene.items()}
        rendered = render_scenes({name: value[None] for name, value in part.items()}, height, width)[0]
        pictures.append((rendered * 255).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(pictures)


def write_avi(path: Path, frames: Tensor, fps: int) -> None:
    """Write (frames, height, width, 3) uint8 as MPEG-4 part 2 in AVI, as UCF-101's files are."""
    import av  # rendering, and with it training on a GPU machine, must not need PyAV

    with atomic(path) as partial, av.open(partial, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.qmin, stream.codec_context.qmax = 2, 10
        stream.bit_rate = 300_000
        for frame in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_dataset(
    root: Path,
    training_clips: int = 2,
    held_out_clips: int = 4,
    seed: int = 0,
    height: int = 240,
    width: int = 320,
    fps: int = 25,
    frames: tuple[int, int] = (70, 120),
) -> list[Path]:
    """Write the embedded set in UCF-101's layout, ``<Class>/v_<Class>_gXX_cYY.avi``, two clips to a group.

    Args:
        root: folder that receives one folder per class.
        training_clips: clips of each class that the embedded model was trained on.
        held_out_clips: clips of each class that it has never seen.
        seed: of the whole set.
        height: picture height in pixels.
        width: picture width in pixels.
        fps: frames per second.
        frames: least and greatest length of a clip.

    Returns:
        The files written.
    """
    counts = dict.fromkeys(TRAINING_CLASSES, training_clips) | dict.fromkeys(HELD_OUT_CLASSES, held_out_clips)
    planned = [(name, index) for name, count in counts.items() for index in range(count)]
    paths = []
    for class_name, index in tqdm(planned, desc="rendering clips"):
        clip_seed = DATASET_SEED + 1000 * seed + index
        num_frames = int(np.random.default_rng((clip_seed, len(paths))).integers(frames[0], frames[1] + 1))
        scene = draw_scene(class_name, clip_seed, num_frames, fps)
        path = Path(root) / class_name / f"v_{class_name}_g{index // 2 + 1:02d}_c{index % 2 + 1:02d}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_avi(path, _render_frames(scene, height, width), fps)
        paths.append(path)
    return paths
