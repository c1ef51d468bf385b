"""The folders of a search."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SearchFolders:
    """The places of a search.

    Attributes:
        clips: the preprocessed clips.
        encoded: their conditionings.
        study: exports of studies, which DVC tracks; the study itself is in the cache's folder or a database.
    """

    clips: Path
    encoded: Path
    study: Path
