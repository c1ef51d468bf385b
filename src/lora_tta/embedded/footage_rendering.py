"""The renderer of :mod:`lora_tta.embedded.footage`, on the device where a model trains."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, pad

from lora_tta.embedded.footage import HARMONICS, NUM_LAYERS, PHOTOGRAPH_SIZE
from lora_tta.embedded.layered_scene import Scene, per_clip, per_frame, pixel_positions, positions_in_layer
from lora_tta.errors import UserError

SUPERSAMPLING = 2  # pixels drawn along each side of one of the picture
BLUR_TAPS = 7


class PhotographBank:
    """Photographs of one size: uint8 (P, 3, 240, 360), on the device where clips are rendered.

    Raises:
        UserError: the folder holds no pictures.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        paths = sorted(path for path in Path(folder).glob("*") if path.suffix in (".jpg", ".png"))
        if not paths:
            raise UserError(
                f"{folder} holds no .jpg or .png: fill it by python -m lora_tta.embedded.photographs"
            )
        size = PHOTOGRAPH_SIZE[::-1]
        pictures = [
            ImageOps.fit(Image.open(path).convert("RGB"), size, Image.Resampling.LANCZOS) for path in paths
        ]
        stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
        self.pictures = stacked.permute(0, 3, 1, 2).contiguous().to(device)

    def __len__(self) -> int:
        return len(self.pictures)


def _render_layer(layer: Scene, pictures: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Colour (B, F, 3, H, W) and opacity (B, F, 1, H, W) of one layer."""
    u, v = positions_in_layer(layer, x, y)
    m, c = layer["texture"], layer["texture_offset"]
    extent = layer["extent"]
    aspect = (extent / extent.amax(dim=1, keepdim=True)).clamp(min=1e-3)
    p, q = u * per_clip(aspect[:, 0]), v * per_clip(aspect[:, 1])
    grid = torch.stack(
        (
            per_clip(m[:, 0, 0]) * p + per_clip(m[:, 0, 1]) * q + per_clip(c[:, 0]),
            per_clip(m[:, 1, 0]) * p + per_clip(m[:, 1, 1]) * q + per_clip(c[:, 1]),
        ),
        dim=-1,
    )
    _, frames, height, *_ = grid.shape
    source = pictures[layer["photograph"]].to(grid.dtype) / 255
    colour = grid_sample(
        source, grid.flatten(1, 2), padding_mode="reflection", align_corners=False, mode="bilinear"
    )
    colour = colour.unflatten(2, (frames, height)).transpose(1, 2)
    mean = source.mean(dim=(2, 3))[:, None, :, None, None]
    colour = mean + layer["contrast"][:, None, None, None, None] * (colour - mean)
    colour = colour * layer["tint"][:, None, :, None, None] * layer["light"][:, :, None, None, None]

    power = per_clip(layer["exponent"])
    radius = (u.abs().pow(power) + v.abs().pow(power) + 1e-6).pow(1 / power)
    outline = torch.ones_like(radius)
    if layer["waves"].any():
        polar = torch.atan2(v, u + 1e-6)
        for k in range(HARMONICS):
            shape = torch.cos((k + 1) * polar + per_clip(layer["wave_phase"][:, k]))
            outline = outline + per_frame(layer["waves"][..., k]) * shape
    distance = (radius - outline) * per_clip(extent.amin(dim=1))
    inside = torch.sigmoid(-distance / per_clip(layer["softness"]) * 2)
    return colour.clamp(0, 1), torch.lerp(
        torch.ones_like(inside), inside, per_clip(layer["bounded"])
    ).unsqueeze(2)


def _blur(picture: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (B, F, 3, H, W) by ``sigma`` (B,) pixels."""
    batch, _, channels, *_ = picture.shape
    taps = torch.arange(BLUR_TAPS, device=picture.device) - BLUR_TAPS // 2
    kernel = torch.exp(-0.5 * (taps / sigma.clamp(min=0.05)[:, None]).square())
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None, None]
    rows = picture.transpose(0, 1).flatten(1, 2)
    edge = BLUR_TAPS // 2
    rows = conv2d(pad(rows, (edge, edge, 0, 0), mode="replicate"), kernel, groups=batch * channels)
    rows = conv2d(
        pad(rows, (0, 0, edge, edge), mode="replicate"), kernel.transpose(2, 3), groups=batch * channels
    )
    return rows.unflatten(1, (batch, channels)).transpose(0, 1)


def render_footage(scenes: Scene, bank: PhotographBank, height: int, width: int) -> Tensor:
    """Render a batch on the device that its tensors and the bank are on.

    Args:
        scenes: tensors of ``draw_footage`` stacked over clips: (batch, ...).
        bank: the photographs, as many as the scenes were drawn for.
        height: picture height in pixels.
        width: picture width in pixels.

    Returns:
        (batch, frames, 3, height, width), float32 in [0, 1].
    """
    device, scale = scenes["matrix"].device, SUPERSAMPLING
    x, y = pixel_positions(height * scale, width * scale, device)
    per_layer = ("matrix", "offset", "texture", "texture_offset", "tint", "contrast", "extent", "bounded")
    per_layer += ("exponent", "waves", "wave_phase", "softness", "light", "photograph")
    used = scenes["opacity"].bool().any(dim=0).tolist()
    batch, _, frames = scenes["light"].shape
    picture = torch.zeros(batch, frames, 3, height * scale, width * scale, device=device)
    for index in (index for index in range(NUM_LAYERS) if used[index]):
        layer = {name: scenes[name][:, index] for name in per_layer}
        colour, opacity = _render_layer(layer, bank.pictures, x, y)
        picture = torch.lerp(picture, colour, opacity * scenes["opacity"][:, index, None, None, None, None])
    picture = avg_pool2d(picture.flatten(0, 1), scale).unflatten(0, (-1, frames))

    def of_picture(name: str) -> Tensor:
        return scenes[name][:, None, None, None, None]

    picture = _blur(picture, scenes["blur"])
    grey = (picture * picture.new_tensor((0.299, 0.587, 0.114))[:, None, None]).sum(dim=2, keepdim=True)
    picture = torch.lerp(
        grey.expand_as(picture), picture * scenes["cast"][:, None, :, None, None], of_picture("saturation")
    )
    column = torch.linspace(-1, 1, width, device=device)
    row = torch.linspace(-1, 1, height, device=device)[:, None]
    fall = 1 - of_picture("vignette") * (column.square() + row.square()) / 2
    picture = 0.5 + of_picture("harshness") * (picture * fall - 0.5)
    picture = picture.clamp(0, 1).pow(of_picture("gamma")) * scenes["gain"][:, :, None, None, None]
    picture = (picture - of_picture("black")) / (1 - of_picture("black"))
    generator = torch.Generator(device).manual_seed(int(scenes["noise_seed"][0]))
    noise = torch.randn(picture.shape, generator=generator, device=device)
    picture = (picture + of_picture("noise") * noise).clamp(0, 1)
    bars = scenes["bars"][:, :, None, None, None, None]
    return torch.where((column.abs() > 1 - bars[:, 0]) | (row.abs() > 1 - bars[:, 1]), 0, picture)
