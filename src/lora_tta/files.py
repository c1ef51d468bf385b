"""Files that are either whole or not there."""

import os
from pathlib import Path

import pandas as pd

FLOAT_FORMAT = "%.9g"
"""Nine digits carry a float32 through a text file unchanged."""


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write the columns of ``table`` (not its index) atomically; NaN becomes an empty cell."""
    write_text(path, table.to_csv(index=False, float_format=FLOAT_FORMAT, lineterminator="\n"))
