"""Colours beyond BT.709, HDR (PQ, HLG) and wide gamuts, to BT.709.

The filters of PyAV's FFmpeg cannot do it (there is neither zscale nor libplacebo), so it is computed here, as
ITU-R BT.2100 and BT.2408 describe it: to the light of a display of 1000 cd/m2, where 203 cd/m2 are the white
of BT.709; by a matrix to its primaries; highlights by the Moebius curve of FFmpeg's ``tonemap``, which leaves
what is darker than its knee as it is; and by the inverse of BT.1886 back to 8 bits.
"""

from functools import cache

import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc

_PEAK, _WHITE = 1000.0, 203.0  # cd/m2
_KNEE = 0.8
_GAMMA = 2.4  # BT.1886

_BT709_XY = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
_DCI_P3_XY = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
_WIDE_XY = {
    int(ColorPrimaries.BT2020): ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    int(ColorPrimaries.SMPTE431): _DCI_P3_XY,
    int(ColorPrimaries.SMPTE432): _DCI_P3_XY,
}
_D65_XY = (0.3127, 0.3290)
_HDR = (int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67))


def needs_mapping(primaries: int, transfer: int) -> bool:
    """Whether colours so tagged (ITU-T H.273) look wrong where BT.709 is taken for granted."""
    return primaries in _WIDE_XY or transfer in _HDR


def to_bt709(rgb: np.ndarray, primaries: int, transfer: int) -> np.ndarray:
    """Map colours to BT.709.

    Args:
        rgb: uint16 (H, W, 3), full range, as coded.
        primaries: as numbered by H.273; HDR without a word on them has those of BT.2020.
        transfer: likewise.

    Returns:
        uint8 (H, W, 3), full range.
    """
    hdr = transfer in _HDR
    light = _light_of_code(transfer)[rgb]
    if transfer == ColorTrc.ARIB_STD_B67:
        # The system gamma of 1.2 belongs to the brightness of the scene, not to each colour.
        brightness = light @ _to_xyz(_WIDE_XY[int(ColorPrimaries.BT2020)])[1].astype(np.float32)
        light = light * np.maximum(brightness, 1e-6)[..., None] ** 0.2 * (_PEAK / _WHITE)
    chromaticities = _WIDE_XY.get(primaries, _WIDE_XY[int(ColorPrimaries.BT2020)] if hdr else _BT709_XY)
    matrix = np.linalg.inv(_to_xyz(_BT709_XY)) @ _to_xyz(chromaticities)
    light = np.maximum(light @ matrix.T.astype(np.float32), 0)
    if hdr:
        strongest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
        light = light * (_moebius(strongest) / strongest)
    return np.rint(255 * np.minimum(light, 1) ** (1 / _GAMMA)).astype(np.uint8)


@cache
def _light_of_code(transfer: int) -> np.ndarray:
    """Light by 16-bit code, float32 (65536,): of the scene for HLG, else of a display whose white is 1."""
    code = np.linspace(0, 1, 2**16)
    if transfer == ColorTrc.SMPTE2084:
        root = code ** (32 / 2523)
        light = (np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)) ** (16384 / 2610)
        light *= 10000 / _WHITE
    elif transfer == ColorTrc.ARIB_STD_B67:
        light = np.where(
            code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
        )
    else:
        light = code**_GAMMA
    return light.astype(np.float32)


def _moebius(light: np.ndarray) -> np.ndarray:
    """Compress what is above the knee, so that the peak becomes 1; smooth at the knee."""
    knee, peak = _KNEE, _PEAK / _WHITE
    a = -(knee**2) * (peak - 1) / (knee**2 - 2 * knee + peak)
    b = (knee**2 - 2 * knee * peak + peak) / (peak - 1)
    scale = (b**2 + 2 * b * knee + knee**2) / (b - a)
    return np.where(light <= knee, light, scale * (light + a) / (light + b))


def _to_xyz(chromaticities: tuple[tuple[float, float], ...]) -> np.ndarray:
    """The matrix from linear RGB to CIE XYZ, for the white D65."""

    def xyz(x: float, y: float) -> list[float]:
        return [x / y, 1, (1 - x - y) / y]

    columns = np.array([xyz(*each) for each in chromaticities]).T
    return columns * np.linalg.solve(columns, xyz(*_D65_XY))
