"""Two clips for all tests that do not care what the clips show."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prepared_clips import prepare_clips

from lora_tta.config import Params
from lora_tta.experiment.pool import ClipTasks
from lora_tta.experiment.runner import ClipRunner
from lora_tta.records.clips import Clip, read_manifest
from lora_tta.records.point import Point


@dataclass
class Ready:
    """Clips that are ready for adaptation, and an empty cache.

    Attributes:
        params: of the pipeline.
        folder: with ``clips`` and ``encoded``, copies of the test's own.
        clips: two of them.
    """

    params: Params
    folder: Path
    clips: list[Clip]

    def change(self, section: str, **values: Any) -> None:
        """Change settings of a section."""
        changed = self.params.model_dump()
        changed[section] |= values
        self.params = Params.model_validate(changed)

    def runner(self) -> ClipRunner:
        """A runner that has loaded nothing yet."""
        return ClipRunner(self.params, self.folder / "clips", self.folder / "encoded")

    def tasks(self, *points: Point | None) -> ClipTasks:
        """Both clips at these points."""
        return ClipTasks(self.params, self.folder / "clips", self.folder / "encoded", self.clips, points)


@pytest.fixture(scope="session")
def prepared_once() -> dict[str, Path]:
    """The folder of the clips, once a test has asked for them."""
    return {}


@pytest.fixture
def ready(params, moving_frames, tmp_path, tmp_path_factory, prepared_once, loaded_once) -> Ready:
    """Short windows are generated and measured sooner."""
    ready = Ready(params, tmp_path, [])
    ready.change("preprocess", conditioning_frames=17, generated_frames=16)
    if not prepared_once:
        folder = tmp_path_factory.mktemp("prepared")
        prepare_clips(ready.params, folder, [moving_frames, moving_frames[::-1]])
        prepared_once["folder"] = folder
    for name in ("clips", "encoded"):
        shutil.copytree(prepared_once["folder"] / name, tmp_path / name)
    ready.clips = read_manifest(tmp_path / "clips")
    return ready
