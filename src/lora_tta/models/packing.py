"""Between latent videos and transformer tokens: 2x2 packing, token positions, and the visual condition.

Shapes: B batch, C latent channels, T latent frames, H x W latent height and width (an eighth of the pixels').
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PATCH_SIZE = 2
SPATIAL_COMPRESSION = 8
TEMPORAL_COMPRESSION = 4

ConditionPlace = Literal["head", "tail", "both"]


def num_pixel_frames(num_latent_frames: int) -> int:
    """Frames that the causal VAE makes of T latent frames: 4 (T - 1) + 1."""
    return TEMPORAL_COMPRESSION * (num_latent_frames - 1) + 1


@dataclass(frozen=True)
class ConditionMode:
    """Which latent frames of a video are given to the model.

    Attributes:
        place: where the known frames lie: the first, the last, or both ends (one frame each).
        num_latent_frames: how many latent frames are known at each place.
        restore_reference: whether the reference latents overwrite the generated ones after sampling, as the
            published image-to-video modes do.
    """

    place: ConditionPlace
    num_latent_frames: int
    restore_reference: bool

    @property
    def num_frames(self) -> int:
        """Pixel frames that are encoded, alone, into the known latent frames."""
        return num_pixel_frames(self.num_latent_frames)

    def __str__(self) -> str:
        return f"{self.place}:{self.num_latent_frames}"


# The published modes; None is text-to-video, which has no condition.
CONDITION_MODES: dict[str, ConditionMode | None] = {
    "t2v": None,
    "i2v_head": ConditionMode("head", 1, restore_reference=True),
    "i2v_tail": ConditionMode("tail", 1, restore_reference=True),
    "i2v_loop": ConditionMode("both", 1, restore_reference=True),
    "v2v_head": ConditionMode("head", 9, restore_reference=False),
    "v2v_tail": ConditionMode("tail", 9, restore_reference=False),
    "v2v_head_easy": ConditionMode("head", 17, restore_reference=False),
    "v2v_tail_easy": ConditionMode("tail", 17, restore_reference=False),
}


def head_mode(num_latent_frames: int) -> ConditionMode:
    """The first latent frames are known: ``i2v_head`` if it is one, as in ``v2v_head`` if more."""
    return ConditionMode("head", num_latent_frames, restore_reference=num_latent_frames == 1)


def get_condition_mode(mode: str | ConditionMode) -> ConditionMode | None:
    """The named mode of ``CONDITION_MODES``, or the one that is given.

    Raises:
        ValueError: for an unknown name; the message has the known ones.
    """
    if isinstance(mode, ConditionMode):
        return mode
    if mode not in CONDITION_MODES:
        raise ValueError(f"unknown mode {mode!r}; the modes are {', '.join(CONDITION_MODES)}")
    return CONDITION_MODES[mode]


def pack_latents(latents: Tensor) -> Tensor:
    """Pack (B, C, T, H, W) into tokens (B, T * H/2 * W/2, C * 4), channels outermost within a token.

    Raises:
        ValueError: if the latents are not 5-dimensional or H or W is odd.
    """
    if latents.ndim != 5:
        raise ValueError(f"latents must be (B, C, T, H, W), got shape {tuple(latents.shape)}")
    batch, channels, frames, height, width = latents.shape
    if height % PATCH_SIZE or width % PATCH_SIZE:
        raise ValueError(f"latent height and width must be even, got {height}x{width}")
    patches = latents.reshape(
        batch, channels, frames, height // PATCH_SIZE, PATCH_SIZE, width // PATCH_SIZE, PATCH_SIZE
    )
    return patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)


def unpack_latents(tokens: Tensor, num_frames: int, height: int, width: int) -> Tensor:
    """Undo ``pack_latents``: tokens (B, T * H/2 * W/2, C * 4) to (B, C, T, H, W), sizes in latent units.

    Raises:
        ValueError: if the number of tokens does not match the sizes.
    """
    rows, columns = height // PATCH_SIZE, width // PATCH_SIZE
    if tokens.shape[1] != num_frames * rows * columns:
        raise ValueError(
            f"{tokens.shape[1]} tokens cannot be {num_frames} latent frames of {height}x{width}, "
            f"which make {num_frames * rows * columns}"
        )
    patches = tokens.reshape(tokens.shape[0], num_frames, rows, columns, -1, PATCH_SIZE, PATCH_SIZE)
    return patches.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)


def prepare_img_ids(
    num_latent_frames: int, latent_height: int, latent_width: int, device: torch.device | str | None = None
) -> Tensor:
    """Positions (t, h, w) of the packed tokens, float32 (N, 3) with N = T * H/2 * W/2."""
    axes = (num_latent_frames, latent_height // PATCH_SIZE, latent_width // PATCH_SIZE)
    ranges = [torch.arange(size, dtype=torch.float32, device=device) for size in axes]
    return torch.stack(torch.meshgrid(*ranges, indexing="ij"), dim=-1).flatten(0, 2)


def prepare_txt_ids(num_text_tokens: int, device: torch.device | str | None = None) -> Tensor:
    """Positions of the text tokens: float32 zeros (L, 3)."""
    return torch.zeros(num_text_tokens, 3, device=device)


def latent_video_shape(
    batch_and_channels: tuple[int, int],
    mode: str | ConditionMode,
    latents: Tensor | None = None,
    reference_latents: Tensor | None = None,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
) -> tuple[int, int, int, int, int]:
    """Shape (B, C, T, H/8, W/8) of the video to generate.

    Args:
        batch_and_channels: B and C.
        mode: a name in ``CONDITION_MODES``, or a mode of its own.
        latents: starting noise (B, C, T, H/8, W/8).
        reference_latents: latents (B or 1, C, F, H/8, W/8) of the reference frames.
        height: pixels; by default that of the latents, of the reference, or 192.
        width: pixels; by default that of the latents, of the reference, or 336.
        num_frames: frames in all; by default that of the latents, or 65.

    Raises:
        ValueError: if the inputs contradict each other, a size is impossible, or the mode leaves no frame to
            generate.
    """
    template = latents if latents is not None else reference_latents
    if template is not None:
        if template.ndim != 5:
            raise ValueError(f"latents must be (B, C, T, H, W), got shape {tuple(template.shape)}")
        height = height or template.shape[3] * SPATIAL_COMPRESSION
        width = width or template.shape[4] * SPATIAL_COMPRESSION
    if latents is not None:
        num_frames = num_frames or num_pixel_frames(latents.shape[2])
    height, width, num_frames = height or 192, width or 336, num_frames or 65

    multiple = SPATIAL_COMPRESSION * PATCH_SIZE
    if height % multiple or width % multiple:
        raise ValueError(f"height and width must be multiples of {multiple}, got {height}x{width}")
    if num_frames % TEMPORAL_COMPRESSION != 1:
        raise ValueError(f"num_frames must be 4 k + 1, got {num_frames}")
    num_latent_frames = (num_frames - 1) // TEMPORAL_COMPRESSION + 1
    shape = (
        *batch_and_channels,
        num_latent_frames,
        height // SPATIAL_COMPRESSION,
        width // SPATIAL_COMPRESSION,
    )
    if latents is not None and tuple(latents.shape) != shape:
        raise ValueError(f"latents must have shape {shape}, got {tuple(latents.shape)}")
    condition_mode = get_condition_mode(mode)
    if condition_mode is not None and num_latent_frames <= condition_mode.num_latent_frames:
        raise ValueError(
            f"mode {mode} knows {condition_mode.num_latent_frames} latent frames and leaves none of the "
            f"{num_latent_frames} to generate: ask for more than {condition_mode.num_frames} frames"
        )
    return shape


def build_condition(
    mode: str | ConditionMode, reference_latents: Tensor | None, shape: tuple[int, int, int, int, int]
) -> tuple[Tensor, Tensor]:
    """Lay the reference latents into an otherwise empty video.

    Args:
        mode: a name in ``CONDITION_MODES``, or a mode of its own.
        reference_latents: scaled latents (B or 1, C, F, H, W) of the reference frames, encoded alone, or None
            for ``t2v``. Where F is more than the mode needs, head modes take the first latent frames, tail
            modes the last, and ``i2v_loop`` the first and the last one.
        shape: (B, C, T, H, W) of the video to generate.

    Returns:
        The mask (B, 1, T, H, W), 1 where a latent frame is known, and the masked reference (B, C, T, H, W),
        on the device and in the dtype of the reference (for ``t2v``: CPU, float32).

    Raises:
        ValueError: for an unknown mode, a missing or superfluous reference, one whose shape does not fit, or
            a video shorter than the condition.
    """
    condition_mode = get_condition_mode(mode)
    batch, channels, num_frames, height, width = shape
    if condition_mode is None:
        if reference_latents is not None:
            raise ValueError("mode t2v takes no reference")
        return torch.zeros(batch, 1, num_frames, height, width), torch.zeros(shape)

    count = condition_mode.num_latent_frames
    if reference_latents is None:
        raise ValueError(f"mode {mode} needs reference frames or latents")
    if reference_latents.ndim != 5:
        raise ValueError(
            f"reference latents must be (B, C, F, H, W), got shape {tuple(reference_latents.shape)}"
        )
    if (
        reference_latents.shape[0] not in (1, batch)
        or reference_latents.shape[1] != channels
        or tuple(reference_latents.shape[3:]) != (height, width)
    ):
        raise ValueError(
            f"reference latents of shape {tuple(reference_latents.shape)} do not fit a video of shape "
            f"{tuple(shape)}"
        )
    if reference_latents.shape[2] < count:
        raise ValueError(f"mode {mode} needs {count} latent frames, got {reference_latents.shape[2]}")
    if num_frames < count:
        raise ValueError(f"mode {mode} needs at least {count} latent frames in all, got {num_frames}")

    mask = reference_latents.new_zeros(batch, 1, num_frames, height, width)
    masked_reference = reference_latents.new_zeros(shape)
    if condition_mode.place in ("head", "both"):
        mask[:, :, :count] = 1
        masked_reference[:, :, :count] = reference_latents[:, :, :count]
    if condition_mode.place in ("tail", "both"):
        mask[:, :, -count:] = 1
        masked_reference[:, :, -count:] = reference_latents[:, :, -count:]
    return mask, masked_reference


def pack_condition(mask: Tensor, masked_reference: Tensor) -> Tensor:
    """Pack the mask (B, 1, T, H, W) and masked reference (B, C, T, H, W) into (B, N, (1 + C) * 4) tokens."""
    return pack_latents(torch.cat((mask, masked_reference), dim=1))


def restore_reference(
    mode: str | ConditionMode, latents: Tensor, mask: Tensor, masked_reference: Tensor
) -> Tensor:
    """Put the known frames back into sampled latents (B, C, T, H, W), in the modes that do so (i2v)."""
    condition_mode = get_condition_mode(mode)
    if condition_mode is None or not condition_mode.restore_reference:
        return latents
    return torch.where(mask.bool(), masked_reference.to(latents.dtype), latents)
