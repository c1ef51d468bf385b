"""The folders of a search."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SearchFolders:
    """Where a search reads and writes."""

    clips: Path
    encoded: Path
    study: Path
