"""Clips that look like camera footage: photographs, people of jointed limbs, cameras, light and noise.

A clip is a background and up to ``NUM_LAYERS`` - 1 things before it. Each is a piece of a photograph behind a
soft outline, moved by one affine map per frame. A layer farther away follows the camera less (parallax). What
a camera does to the picture comes last: exposure, fades, vignetting, blur, noise, bars at the sides.

Positions are in half widths of the picture, as in :mod:`lora_tta.embedded.layered_scene`. Photographs come
from :mod:`lora_tta.embedded.photographs`, pictures from :mod:`lora_tta.embedded.footage_rendering`.
"""

from dataclasses import dataclass

import numpy as np
import torch

from lora_tta.embedded.layered_scene import Scene, rotation

NUM_LAYERS = 13  # a background, and a person of eleven parts with one thing besides
HARMONICS = 4  # of an outline
PHOTOGRAPH_SIZE = (240, 360)  # height, width in the bank
MOTION_FIELDS = ("matrix", "offset", "waves", "light")  # of a layer, per frame
PICTURE_FIELDS = ("gain", "previous_shot")  # of the picture, per frame


@dataclass
class _Camera:
    """Affine map of each frame from picture to world: (frames, 2, 2) and (frames, 2)."""

    matrix: np.ndarray
    offset: np.ndarray

    def seen_from(self, nearness: float) -> "_Camera":
        """The map for a layer that follows the camera by ``nearness``: 0 not at all, 1 fully."""
        return _Camera(np.eye(2) + nearness * (self.matrix - np.eye(2)), nearness * self.offset)


def _wander(rng: np.random.Generator, t: np.ndarray, amplitude: float, dimensions: int) -> np.ndarray:
    """Smooth random motion of that spread: (frames, dimensions); slow parts are larger than fast ones."""
    frequency = rng.uniform(0.2, 3.5, (6, dimensions))
    phase, weight = rng.uniform(0, 2 * np.pi, (6, dimensions)), rng.normal(size=(6, dimensions)) / frequency
    waves = weight * np.sin(2 * np.pi * frequency * t[:, None, None] + phase)
    return amplitude * waves.sum(axis=1)


def _travel(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Distance travelled at unit mean speed: even, starting, stopping, or there and back: (frames,)."""
    middle, kind = t[-1] / 2, rng.choice(4, p=(0.6, 0.15, 0.15, 0.1))
    if kind == 0:
        return t - middle
    onset = rng.uniform(0.2, 0.8) * t[-1]
    if kind == 1:
        return np.maximum(t - onset, 0)
    if kind == 2:
        return np.minimum(t - onset, 0)
    rate = rng.uniform(1.5, 4.0)
    return np.sin(rate * t + rng.uniform(0, 2 * np.pi)) / rate


def _draw_camera(rng: np.random.Generator, t: np.ndarray) -> _Camera:
    """A tripod, a hand, or a moving camera."""
    kind = rng.choice(("tripod", "hand", "moving"), p=(0.5, 0.25, 0.25))
    angle, zoom, place = np.zeros_like(t), np.zeros_like(t), np.zeros((len(t), 2))
    if kind != "tripod":
        shake = rng.choice((0.002, 0.006, 0.015), p=(0.4, 0.4, 0.2))
        place = place + _wander(rng, t, shake, 2)
        angle = angle + _wander(rng, t, shake / 2, 1)[:, 0]
    if kind == "moving":
        direction, speed = rng.uniform(0, 2 * np.pi), rng.choice((0.06, 0.2, 0.5)) * rng.uniform(0.4, 1.2)
        velocity = speed * np.array((np.cos(direction), 0.5 * np.sin(direction)))
        if rng.random() < 0.7:
            place = place + _travel(rng, t)[:, None] * velocity
        if rng.random() < 0.3:
            place = place + _wander(rng, t, 0.04, 2)
        if rng.random() < 0.45:
            zoom = zoom + rng.normal(0, 0.14) * _travel(rng, t)
        if rng.random() < 0.12:
            angle = angle + rng.normal(0, 0.3) * _travel(rng, t)
    matrix = np.exp(-zoom)[:, None, None] * rotation(angle)
    return _Camera(matrix, place)


def _draw_look(rng: np.random.Generator, photographs: int, crop: tuple[float, float]) -> dict:
    """A piece of a photograph of random place, size, mirroring and colour.

    ``texture`` maps a layer's coordinates to the photograph's, [-1, 1] in both directions.
    """
    share = rng.uniform(*crop)  # of the photograph's width
    flip = rng.choice((-1.0, 1.0))
    texture = np.diag((share * flip, share * PHOTOGRAPH_SIZE[1] / PHOTOGRAPH_SIZE[0]))
    if crop[1] < 0.5:
        texture = texture @ rotation(np.array([rng.uniform(0, 2 * np.pi)]))[0]
    room = np.maximum(1 - np.abs(np.diag(texture)), 0)
    tint = rng.normal(0, 0.06, 3) if rng.random() < 0.7 else rng.normal(0, 0.25, 3)
    return {
        "photograph": rng.integers(photographs),
        "texture": texture,
        "texture_offset": rng.uniform(-room, room),
        "tint": np.exp(tint),
        "contrast": rng.uniform(0.3, 1.0) * (rng.random() < 0.85) if crop[1] < 0.5 else 1.0,
    }


def _part(
    t: np.ndarray,
    camera: _Camera,
    look: dict,
    centre: np.ndarray,
    angle: np.ndarray,
    size: tuple[float, float] | np.ndarray,
    exponent: float = 2.0,
    waves: np.ndarray | float = 0.0,
    wave_phase: np.ndarray | float = 0.0,
    softness: float = 0.015,
    light: np.ndarray | float = 1.0,
) -> dict:
    """A thing at ``centre`` (frames, 2), turned by ``angle``, of half extents ``size`` (frames, 2)."""
    size = np.broadcast_to(np.asarray(size, dtype=float), (len(t), 2))
    matrix = rotation(-angle) / size[:, :, None]
    placed = {
        "matrix": matrix @ camera.matrix,
        "offset": np.einsum("tij,tj->ti", matrix, camera.offset - centre),
        "extent": size.mean(axis=0),
        "bounded": 1.0,
        "exponent": exponent,
        "waves": np.broadcast_to(np.asarray(waves, dtype=float), (len(t), HARMONICS)),
        "wave_phase": np.broadcast_to(np.asarray(wave_phase, dtype=float), (HARMONICS,)),
        "softness": softness,
        "light": np.broadcast_to(np.asarray(light, dtype=float), (len(t),)),
    }
    return look | placed


def _draw_thing(rng: np.random.Generator, t: np.ndarray, camera: _Camera, photographs: int) -> dict:
    """One thing, at rest, under way, swinging or bouncing, rigid or deforming."""
    size = rng.uniform(0.08, 0.45) * np.array((1.0, rng.uniform(0.5, 1.6)))
    start = np.array((rng.uniform(-0.8, 0.8), rng.uniform(-0.45, 0.5)))
    motion = rng.choice(("rest", "line", "swing", "bounce", "wander"), p=(0.2, 0.3, 0.2, 0.1, 0.2))
    centre = np.broadcast_to(start, (len(t), 2))
    turn = np.zeros_like(t)
    if motion == "line":
        direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.6)
        centre = centre + speed * _travel(rng, t)[:, None] * np.array(
            (np.cos(direction), 0.6 * np.sin(direction))
        )
        turn = turn + (rng.random() < 0.3) * rng.normal(0, 0.8) * t
    elif motion == "swing":
        rate, swing = rng.uniform(1.5, 9.0), rng.normal(0, 0.12, 2)
        centre = centre + np.sin(rate * t + rng.uniform(0, 6))[:, None] * swing
        turn = turn + rng.normal(0, 0.25) * np.sin(rate * t + rng.uniform(0, 6))
    elif motion == "wander":  # as people and animals do, where nobody can tell how it goes on
        centre = centre + _wander(rng, t, rng.uniform(0.01, 0.05), 2)
        turn = turn + _wander(rng, t, rng.uniform(0, 0.1), 1)[:, 0]
    elif motion == "bounce":
        height, gravity = rng.uniform(0.15, 0.55), rng.uniform(2.0, 4.5)
        phase = (t / np.sqrt(8 * height / gravity) + rng.uniform()) % 1
        path = np.stack((rng.normal(0, 0.3) * (t - t[-1] / 2), -4 * height * phase * (1 - phase)), axis=1)
        centre = centre + path
        turn = turn + rng.normal(0, 1.0) * t
    waves = rng.normal(0, 0.12, HARMONICS) * (rng.random() < 0.6)
    if rng.random() < 0.35:
        waves = (
            waves * (1 + rng.uniform(0.2, 1.0) * np.sin(rng.uniform(2, 9) * t + rng.uniform(0, 6)))[:, None]
        )
    return _part(
        t,
        camera,
        _draw_look(rng, photographs, (0.1, 0.45)),
        centre + _wander(rng, t, rng.choice((0.0, 0.004)), 2),
        rng.uniform(0, 2 * np.pi) * (rng.random() < 0.3) + turn,
        size,
        exponent=rng.choice((2.0, 3.0, 8.0)),
        waves=waves,
        wave_phase=rng.uniform(0, 2 * np.pi, HARMONICS),
        softness=rng.choice((0.01, 0.02, 0.05)),
        light=1 + rng.uniform(-0.3, 0.3) * (rng.random() < 0.2) * np.sin(rng.uniform(0.5, 3) * t),
    )


def _draw_person(rng: np.random.Generator, t: np.ndarray, camera: _Camera, photographs: int) -> list[dict]:
    """A body of jointed limbs that swing, walk or stand: eleven parts, back to front."""
    height = rng.uniform(0.35, 1.0)  # of the whole body
    looks = [_draw_look(rng, photographs, (0.03, 0.2)) for _ in range(3)]  # skin, shirt, trousers
    skin, shirt, trousers = looks
    walk = (rng.random() < 0.4) * rng.normal(0, 0.25) * _travel(rng, t)
    hip = np.array((rng.uniform(-0.6, 0.6), rng.uniform(-0.15, 0.25)))
    bob = (rng.random() < 0.5) * 0.02 * height * np.sin(rng.uniform(3, 10) * t)
    hip = hip + np.stack((walk, bob), axis=1) + _wander(rng, t, rng.choice((0.004, 0.02)), 2)
    lean = rng.normal(0, 0.15) + _wander(rng, t, 0.03, 1)[:, 0]
    rate = rng.uniform(2.0, 10.0)
    torso = 0.32 * height

    def down(angle: np.ndarray) -> np.ndarray:
        return np.stack((-np.sin(angle), np.cos(angle)), axis=-1)

    neck = hip - down(lean) * torso
    parts = []

    def limb(
        root: np.ndarray, length: float, width: float, upper: dict, lower: dict, spread: float
    ) -> list[dict]:
        vigour = rng.choice((0.05, 0.3, 0.8)) * spread
        gesture = _wander(rng, t, rng.choice((0.0, 0.15)) * spread, 1)[:, 0]
        first = lean + rng.normal(0, 0.5 * spread) + vigour * np.sin(rate * t + rng.uniform(0, 6)) + gesture
        second = first + rng.normal(0, 0.6 * spread) + vigour * np.sin(rate * t + rng.uniform(0, 6))
        joint = root + length * down(first)
        pieces = []
        for start, angle, look, girth in ((root, first, upper, width), (joint, second, lower, 0.8 * width)):
            half = (girth, 0.5 * length + girth)
            pieces.append(_part(t, camera, look, start + 0.5 * length * down(angle), angle, half, 4.0))
        return pieces

    girth = rng.uniform(0.03, 0.05) * height
    parts += limb(neck, 0.17 * height, girth, shirt, skin, 1.0)
    parts += limb(hip, 0.24 * height, 1.2 * girth, trousers, trousers, 0.5)
    parts += limb(hip, 0.24 * height, 1.2 * girth, trousers, trousers, 0.5)
    waist = (rng.uniform(0.08, 0.13) * height, 0.5 * torso + 0.03 * height)
    parts.append(_part(t, camera, shirt, 0.5 * (hip + neck), lean, waist, 3.5))
    head = 0.075 * height
    nod = lean + _wander(rng, t, 0.05, 1)[:, 0]
    skull = neck - down(nod) * 1.25 * head
    parts.append(_part(t, camera, skin, skull, nod, (0.8 * head, head)))
    hair = skin | {"tint": skin["tint"] * rng.uniform(0.1, 0.6)}
    parts.append(_part(t, camera, hair, skull - down(nod) * 0.45 * head, nod, (0.85 * head, 0.65 * head)))
    parts += limb(neck, 0.17 * height, girth, shirt, skin, 1.0)
    return parts[: NUM_LAYERS - 2]


def _draw_background(rng: np.random.Generator, t: np.ndarray, camera: _Camera, photographs: int) -> dict:
    look = _draw_look(rng, photographs, (0.35, 0.9))
    if rng.random() < 0.12:  # a wall, a sky, a studio
        look["contrast"] = rng.uniform(0.0, 0.4)
    still = {"bounded": 0.0, "exponent": 2.0, "waves": np.zeros((len(t), HARMONICS)), "extent": np.ones(2)}
    still |= {"wave_phase": np.zeros(HARMONICS), "softness": 0.01, "light": np.ones(len(t))}
    return look | still | {"matrix": camera.matrix, "offset": camera.offset}


def _draw_gain(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Exposure of each frame: mostly constant, at times a fade, a slow change or a flicker."""
    gain = np.ones_like(t)
    event = rng.choice(("none", "fade", "slow", "flicker"), p=(0.78, 0.07, 0.1, 0.05))
    if event == "fade":
        start, length = rng.uniform(-0.5, 0.8) * t[-1], rng.uniform(0.6, 2.5)
        ramp = np.clip((t - start) / length, 0, 1)
        gain = 1 - ramp if rng.random() < 0.65 else ramp
    elif event == "slow":
        gain = np.exp(rng.normal(0, 0.25) * (t - t[-1] / 2))
    elif event == "flicker":
        gain = 1 + rng.uniform(0.02, 0.12) * np.sin(rng.uniform(4, 30) * t) + rng.normal(0, 0.02, len(t))
    if rng.random() < 0.22:
        gain = gain * rng.uniform(0.08, 0.5)  # night, a stage
    return gain


def _draw_previous_shot(rng: np.random.Generator, frames: int) -> np.ndarray:
    """How much of the shot before is still seen in each frame: a cut or a cross-fade early in some clips.

    A later one nobody can foresee: learning from it would only make all continuations paler.
    """
    if rng.random() > 0.15:
        return np.zeros(frames)
    cut, length = rng.uniform(0.03, 0.5) * frames, rng.choice((0.0, rng.uniform(4, 16)), p=(0.75, 0.25))
    return np.clip((cut - np.arange(frames)) / max(length, 1e-3), 0, 1)


def _draw_saturation(rng: np.random.Generator) -> float:
    """How far colours are from grey beside a photograph's: black and white, as they are, or up to paint's."""
    kind = rng.choice(("grey", "plain", "other", "vivid"), p=(0.12, 0.48, 0.25, 0.15))
    return {"grey": 0.0, "plain": 1.0, "other": rng.uniform(0.3, 1.7), "vivid": rng.uniform(1.7, 4.0)}[kind]


def draw_footage(seed: int, num_frames: int, fps: float, photographs: int) -> Scene:
    """Draw one clip: float32 CPU tensors, the same for the same arguments.

    Args:
        seed: 0 or more.
        num_frames: frames in the clip.
        fps: frames per second.
        photographs: how many the bank has.
    """
    rng = np.random.default_rng((seed, 1))
    t = np.arange(num_frames) / fps
    camera = _draw_camera(rng, t)
    depth = rng.uniform(0.4, 1.0)
    layers = [_draw_background(rng, t, camera.seen_from(depth), photographs)]
    near = camera.seen_from(min(1.0, depth * rng.uniform(1.0, 1.4)))
    kind = rng.choice(("nobody", "things", "person"), p=(0.3, 0.4, 0.3))
    if kind == "things":
        layers += [_draw_thing(rng, t, near, photographs) for _ in range(rng.integers(1, 4))]
    elif kind == "person":
        if rng.random() < 0.5:
            layers.append(_draw_thing(rng, t, near, photographs))
        layers += _draw_person(rng, t, near, photographs)
    empty = {name: np.zeros_like(np.asarray(value)) for name, value in layers[-1].items()}
    empty |= {"exponent": 2.0, "extent": np.ones(2), "softness": 1.0}
    opacity = np.zeros(NUM_LAYERS)
    opacity[: len(layers)] = 1.0
    layers += [empty] * (NUM_LAYERS - len(layers))
    scene = {
        name: torch.from_numpy(np.stack([np.asarray(layer[name], dtype=np.float32) for layer in layers]))
        for name in layers[0]
        if name != "photograph"
    }
    picture = {
        "opacity": opacity,
        "gain": _draw_gain(rng, t),
        "previous_shot": _draw_previous_shot(rng, num_frames),
        "harshness": rng.uniform(2.0, 8.0) if rng.random() < 0.07 else 1.0,  # as of drawings and screens
        "gamma": np.exp(rng.normal(0, 0.15)),
        "cast": np.exp(rng.normal(0, 0.05, 3)),
        "black": rng.uniform(0, 0.06) * (rng.random() < 0.5),
        "vignette": rng.uniform(0, 0.7) * (rng.random() < 0.3),
        "saturation": _draw_saturation(rng),
        "blur": rng.choice((0.0, 0.5, 0.8, 1.4), p=(0.45, 0.25, 0.2, 0.1)),
        "noise": rng.uniform(0.002, 0.025) * (rng.random() < 0.35),
        "bars": rng.uniform(0.05, 0.3, 2) * (rng.random(2) < (0.1, 0.06)),
    }
    scene |= {name: torch.from_numpy(np.asarray(value, dtype=np.float32)) for name, value in picture.items()}
    scene["photograph"] = torch.tensor([int(layer["photograph"]) for layer in layers])
    scene["noise_seed"] = torch.tensor(seed)
    return scene
