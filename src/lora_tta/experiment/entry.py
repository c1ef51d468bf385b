"""Finished work in the cache, or work that is on its way there."""

import shutil
from collections.abc import Callable
from pathlib import Path

from lora_tta.adaptation.trajectory import AdaptationRecord


class Entry:
    """A folder in the cache.

    Args:
        folder: or a function that returns it, which waits or writes.
        in_model: whether the model holds these adapted parameters.
        as_it_was: whether no step of the adaptation was worth taking, so that it leaves the model as it was.
    """

    def __init__(self, folder: Path | Callable[[], Path], in_model: bool = False, as_it_was: bool = False):
        self._folder = folder
        self.in_model = in_model
        self.as_it_was = as_it_was

    @classmethod
    def of_adapter(cls, folder: Path) -> "Entry":
        """The entry of an adaptation that was found in the cache."""
        return cls(folder, as_it_was=not AdaptationRecord.load(folder).losses)

    def __call__(self) -> Path:
        """The folder, with its files."""
        return self._folder if isinstance(self._folder, Path) else self._folder()

    def copy_to(self, folder: Path) -> None:
        """Copy the files to a folder."""
        shutil.copytree(self(), folder, dirs_exist_ok=True)
