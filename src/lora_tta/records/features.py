"""Features of videos, by which sets of clips are compared, on disk: ``features.npz`` beside the tables.

It holds ``clip_id`` (n,), and ``generated`` and ``target`` (n, k) float32.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

FEATURES = "features.npz"
MIN_CLIPS = 256
"""Of a smaller set a distance between features says more about its size than about the videos."""


def write_features(folder: Path, features: Mapping[str, np.ndarray]) -> None:
    """Write the features (2, k) of the generated and the true video of each clip; nothing without any."""
    if not features:
        return
    generated, target = np.stack(list(features.values()), axis=1)
    np.savez(folder / FEATURES, clip_id=np.array(list(features)), generated=generated, target=target)


def read_features(folder: Path) -> dict[str, np.ndarray]:
    """The features (2, k) of each clip; empty where none were written."""
    if not (folder / FEATURES).exists():
        return {}
    with np.load(folder / FEATURES) as stored:
        pairs = np.stack([stored["generated"], stored["target"]], axis=1)
        return dict(zip(stored["clip_id"].tolist(), pairs, strict=True))
