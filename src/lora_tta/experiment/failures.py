"""The list of clips that failed in a stage: ``failed.csv`` with ``clip_id`` and ``reason``."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lora_tta.files import write_csv
from lora_tta.records.outcome import ClipFailure

FAILED_NAME = "failed.csv"


def write_failures(folder: Path, failures: Sequence[ClipFailure]) -> None:
    """Write the list, if there is anything to list."""
    if failures:
        rows = [{"clip_id": failure.clip.clip_id, "reason": failure.reason} for failure in failures]
        write_csv(folder / FAILED_NAME, pd.DataFrame(rows))


def read_failures(folder: Path) -> dict[str, str]:
    """Reasons by clip id."""
    path = folder / FAILED_NAME
    if not path.exists():
        return {}
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return dict(zip(table["clip_id"], table["reason"], strict=True))
