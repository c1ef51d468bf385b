"""Layered scenes: textured layers in motion, and their renderer.

A scene is a stack of four layers, a background and up to three objects. Each layer is a band-limited texture
(plane waves, rings, spokes) behind a soft-edged outline, moved by one affine map per frame. Positions are in
half widths of the picture: x runs over [-1, 1], y downwards over the same scale, so another aspect ratio is a
centre crop of the same scene.
"""

from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

NUM_LAYERS = 4
NUM_WAVES = 3
EDGE_WIDTH = 0.012  # softness of an outline, in half widths: under one pixel of a 64x112 picture
MOTION_FIELDS = {"matrix": (2, 2), "offset": (2,), "lobe_phase": (), "ripple_phase": (), "slide": (2,)}

Scene = dict[str, Tensor]


@dataclass
class Layer:
    """One textured layer; the arrays with a leading ``frames`` axis hold its motion."""

    matrix: np.ndarray  # (frames, 2, 2): picture position -> layer position, together with `offset`
    offset: np.ndarray  # (frames, 2)
    base: np.ndarray  # (3,) mean colour
    colours: (
        np.ndarray
    )  # (NUM_WAVES + 2, 3): amplitude per channel of each wave, then of the rings and the spokes
    waves: np.ndarray  # (NUM_WAVES, 2) wave vectors, radians per half width
    phases: np.ndarray  # (NUM_WAVES + 2,)
    gain: float  # 0: sinusoids; larger: squarer profiles
    ring_frequency: float = 0.0
    ring_centre: np.ndarray = field(default_factory=lambda: np.zeros(2))
    spokes: float = 0.0
    size: np.ndarray = field(default_factory=lambda: np.ones(2))  # half extents at rest
    opacity: float = 1.0
    bounded: float = 1.0  # 0: fills the picture
    exponent: float = 2.0  # of the outline's norm: 2 is an ellipse, 8 a rounded box
    lobes: float = 0.0
    lobe_depth: float = 0.0
    lobe_phase: np.ndarray | float = 0.0  # (frames,)
    slide: np.ndarray | float = 0.0  # (frames, 2) texture motion inside a resting outline
    ripple: np.ndarray = field(default_factory=lambda: np.zeros(2))  # displacement amplitude
    ripple_wave: np.ndarray = field(default_factory=lambda: np.zeros(2))
    ripple_phase: np.ndarray | float = 0.0  # (frames,)
    shading: float = 0.0  # darkening towards the outline

    def arrays(self) -> dict[str, np.ndarray]:
        """Every field as a float32 array, motion fields expanded over the frames."""
        frames = len(self.matrix)
        values = {f.name: np.asarray(getattr(self, f.name), dtype=np.float32) for f in fields(self)}
        for name, shape in MOTION_FIELDS.items():
            values[name] = np.broadcast_to(values[name], (frames, *shape))
        return values


def stack_layers(layers: list[Layer]) -> Scene:
    """A scene of up to four layers, back to front, as float32 tensors (layers, ...)."""
    arrays = [layer.arrays() for layer in layers]
    unused = {name: np.zeros_like(value) for name, value in arrays[0].items()} | {"exponent": np.float32(2)}
    arrays += [unused] * (NUM_LAYERS - len(arrays))
    return {name: torch.from_numpy(np.stack([a[name] for a in arrays])) for name in arrays[0]}


def rotation(angle: np.ndarray) -> np.ndarray:
    """Matrices (frames, 2, 2) of angles (frames,) in radians."""
    return np.stack((np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)), axis=-1).reshape(-1, 2, 2)


def pixel_positions(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x (width,) and y (height, 1) of the pixels' middles."""
    x = (torch.arange(width, device=device) + 0.5) * 2 / width - 1
    y = ((torch.arange(height, device=device) + 0.5) * 2 - height) / width
    return x, y[:, None]


def per_clip(value: Tensor) -> Tensor:
    """Values (batch,) beside frames and pixels."""
    return value[:, None, None, None]


def per_frame(value: Tensor) -> Tensor:
    """Values (batch, frames) beside pixels."""
    return value[:, :, None, None]


def positions_in_layer(layer: Scene, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels' positions in the layer's own coordinates, both (batch, frames, height, width)."""
    a, b = layer["matrix"], layer["offset"]
    u = per_frame(a[..., 0, 0]) * x + per_frame(a[..., 0, 1]) * y + per_frame(b[..., 0])
    v = per_frame(a[..., 1, 0]) * x + per_frame(a[..., 1, 1]) * y + per_frame(b[..., 1])
    return u, v


def _render_layer(layer: Scene, parts: list[bool], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Colour (batch, frames, 3, height, width) and opacity (batch, frames, 1, height, width) of one layer.

    ``parts`` says which parts of the texture (waves, rings, spokes) any of the clips uses.
    """

    u, v = positions_in_layer(layer, x, y)

    radius = (u.abs().pow(p := per_clip(layer["exponent"])) + v.abs().pow(p) + 1e-6).pow(1 / p)
    polar = torch.atan2(v, u + 1e-6)
    outline = 1 + per_clip(layer["lobe_depth"]) * torch.cos(
        per_clip(layer["lobes"]) * polar + per_frame(layer["lobe_phase"])
    )
    distance = (radius - outline) * per_clip(layer["size"].amin(dim=1))
    inside = torch.sigmoid(-distance / EDGE_WIDTH * 2)
    opacity = per_clip(layer["opacity"]) * torch.lerp(
        torch.ones_like(inside), inside, per_clip(layer["bounded"])
    )

    u = u * per_clip(layer["size"][:, 0]) + per_frame(layer["slide"][..., 0])
    v = v * per_clip(layer["size"][:, 1]) + per_frame(layer["slide"][..., 1])
    wave = layer["ripple_wave"]
    ripple = torch.sin(per_clip(wave[:, 0]) * u + per_clip(wave[:, 1]) * v + per_frame(layer["ripple_phase"]))
    u, v = u + per_clip(layer["ripple"][:, 0]) * ripple, v + per_clip(layer["ripple"][:, 1]) * ripple

    k, centre = layer["waves"], layer["ring_centre"]
    from_centre = torch.hypot(u - per_clip(centre[:, 0]), v - per_clip(centre[:, 1]))
    arguments = [per_clip(k[:, i, 0]) * u + per_clip(k[:, i, 1]) * v for i in range(NUM_WAVES)]
    arguments += [per_clip(layer["ring_frequency"]) * from_centre, per_clip(layer["spokes"]) * polar]
    gain = per_clip(layer["gain"]) + 1e-3
    colour = layer["base"][:, None, :, None, None]
    for i, argument in enumerate(arguments):
        if not parts[i]:
            continue
        value = torch.tanh(gain * torch.cos(argument + per_clip(layer["phases"][:, i]))) / torch.tanh(gain)
        if i == NUM_WAVES + 1:  # spokes fade out towards the hub, where they would be too fine
            value = value * (radius / 0.4).clamp(max=1)
        colour = colour + layer["colours"][:, None, i, :, None, None] * value.unsqueeze(2)
    shade = 1 - per_clip(layer["shading"]) * radius.square().clamp(max=1)
    return (colour * shade.unsqueeze(2)).clamp(0, 1), opacity.unsqueeze(2)


def render_scenes(scenes: Scene, height: int, width: int) -> Tensor:
    """Render a batch of scenes on the device their tensors are on.

    Args:
        scenes: tensors of ``draw_scene`` stacked over clips: (batch, layers, ...).
        height: picture height in pixels.
        width: picture width in pixels; the scene's [-1, 1] spans it.

    Returns:
        (batch, frames, 3, height, width), float32 in [0, 1].
    """
    x, y = pixel_positions(height, width, scenes["matrix"].device)
    layers_used = scenes["opacity"].bool().any(dim=0).tolist()
    parts_used = scenes["colours"].bool().any(dim=3).any(dim=0).tolist()
    picture = None
    for index in (index for index in range(NUM_LAYERS) if layers_used[index]):
        layer = {name: value[:, index] for name, value in scenes.items()}
        colour, opacity = _render_layer(layer, parts_used[index], x, y)
        picture = colour if picture is None else torch.lerp(picture, colour, opacity)
    return picture
