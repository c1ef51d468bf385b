"""Fixtures shared by all tests: a tiny random model, a few clips, and settings small enough for both."""

import copy
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import pytest

from lora_tta.config import ModelParams, Params, load_params
from lora_tta.imports import large_imports

# The process that hands the tests to others reads this file too, before they begin: it needs no torch.
if TYPE_CHECKING:
    import torch

    from lora_tta.backbones.base import Backbone, Conditioning
    from lora_tta.backbones.opensora import OpenSoraBackbone
    from lora_tta.evaluation.perceptual import PerceptualDistance
    from lora_tta.models.pipeline import OpenSoraContinuationPipeline

if "PYTEST_XDIST_WORKER" in os.environ:
    # Python would take seconds to take apart what the tests have imported.
    import lora_tta.end_at_once  # noqa: F401

REPOSITORY = Path(__file__).parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What the tests import stays."""
    with large_imports():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that in the end no process waits for the other's long one.

    The mark ``slow`` may have an argument: about how many seconds the test takes.
    """
    import torch

    # The tests run in several processes; their threads on two cores would wait for each other.
    torch.set_num_threads(1)
    for item in items:
        mark = item.get_closest_marker("gpu")
        interpreted = mark and mark.kwargs.get("or_interpreter") and os.environ.get("TRITON_INTERPRET") == "1"
        if mark and not (torch.cuda.is_available() or interpreted):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
    seconds: Counter[Path] = Counter()
    for item in items:
        if mark := item.get_closest_marker("slow"):
            seconds[item.path] += mark.args[0] if mark.args else 10
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(scope="session", autouse=True)
def _forkserver(request: pytest.FixtureRequest) -> None:
    """Before the first test, the server of forks of the tests, if one of them asks for it."""
    import torch

    asked = any(
        "forkserver_with_model" in getattr(item, "fixturenames", ()) for item in request.session.items
    )
    # Whoever has asked CUDA passes a broken CUDA on.
    if asked and sys.platform == "linux" and not torch.cuda.is_available():
        resource_tracker.ensure_running()
        with patch("multiprocessing.util.spawnv_passfds", fork_server):
            start_forkserver()


def fork_server(_: bytes, arguments: list[str], passed: list[int]) -> int:
    """A server of forks that is a fork itself: this process has imported the same, and no test has begun.

    The arguments are those of a Python that would import it all again.
    """
    process = os.fork()
    if process:
        return process
    try:
        # All ends of its pipes but its own, whose other ends would never close.
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2 and descriptor not in passed:
                with suppress(OSError):
                    os.close(descriptor)
        # What pytest has put in their place writes to a file that is closed now.
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        exec(arguments[-1], {})
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def start_forkserver() -> None:
    """Start the server of forks of this process, unless it runs."""
    from lora_tta.evaluation import frame_metrics
    from lora_tta.experiment.processes import END_MODULE
    from lora_tta.search.launch import WORKER_MODULE

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([END_MODULE, WORKER_MODULE, frame_metrics.__name__])
    multiprocessing.forkserver.ensure_running()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with random weights of a few thousand parameters."""
    from tiny_model import tiny_pipeline

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables in SQLite. Making them takes seconds, so tests that need a store copy the file."""
    from lora_tta.tracking.store import create_database

    folder = tmp_path_factory.getbasetemp()
    # The processes of one run of the tests share the folder above their own.
    path = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "mlflow" / "empty.db"
    create_database(path, path.parent.as_uri())
    return path


@pytest.fixture(scope="session")
def forkserver_with_model() -> None:
    """Processes of the tests are forked with all that a worker of a study imports, the model's code included.

    There is one server for all tests of a process, and the first that starts it decides what it has imported.
    So every test that starts processes asks for this one. A worker that a test kills and starts again then
    works within a moment, and kills meet its work, not its imports.
    """
    start_forkserver()


@pytest.fixture(scope="session")
def repository_params() -> Params:
    """The repository's settings, read once."""
    return load_params(REPOSITORY / "params.yaml")


@pytest.fixture
def params(repository_params: Params, tiny_model: Path, tmp_path: Path) -> Params:
    """The repository's settings with the tiny model, 32x48 pixels, few steps, and stores in ``tmp_path``."""
    values = repository_params.model_dump()
    values["preprocess"] |= {"height": 32, "width": 48, "num_clips": None}
    values["model"] |= {"path": tiny_model, "device": "cpu"}
    values["adaptation"] |= {"stopping": None, "timesteps": "uniform", "learning_rate": 3e-3}
    values["generation"] |= {"num_inference_steps": 2}
    values["evaluation"] |= {"lpips": "untrained", "bootstrap_samples": 100}
    values["search"] |= {
        "n_trials": 2,
        "num_clips": 1,
        "space": {"rank": [2, 4], "learning_rate": [1e-3], "num_steps": [1, 3]},
    }
    values["tracking"] |= {
        "uri": f"sqlite:///{tmp_path}/mlflow.db",
        "artifact_root": tmp_path / "artifacts",
    }
    values["cache"] |= {"path": tmp_path / "cache"}
    return Params.model_validate(values)


@pytest.fixture
def moving_frames(moving_frames_once: np.ndarray) -> np.ndarray:
    """(70, 48, 64, 3) uint8 RGB: a smooth pattern that slides to the right."""
    return moving_frames_once.copy()


@pytest.fixture(scope="session")
def moving_frames_once() -> np.ndarray:
    """The same, to be copied."""
    rows, columns = np.mgrid[:48, :64]
    shifts = np.arange(70)[:, None, None]
    waves = [np.sin((columns - shifts) / 5), np.sin(rows / 7 + shifts / 9), np.sin((rows + columns) / 6)]
    return np.stack([np.broadcast_to(127 + 90 * wave, (70, 48, 64)) for wave in waves], axis=-1).astype(
        np.uint8
    )


@pytest.fixture(scope="session")
def loaded_pipeline(tiny_model) -> "OpenSoraContinuationPipeline":
    """The tiny model, to be copied: loading it takes five times as long."""
    import torch

    from lora_tta.models.loading import load_pipeline

    return load_pipeline(tiny_model, "cpu", torch.float32)


@pytest.fixture
def pipeline(loaded_pipeline) -> "OpenSoraContinuationPipeline":
    return copy.deepcopy(loaded_pipeline)


@pytest.fixture(scope="session")
def loaded_backbones() -> dict[str, "Backbone"]:
    """The tiny model as the settings of its loading have it, once a test has asked for it."""
    return {}


@pytest.fixture(scope="session")
def untrained_distance() -> "PerceptualDistance":
    """The distance with random weights, to be copied."""
    from lora_tta.evaluation.perceptual import load_perceptual_distance

    return load_perceptual_distance("untrained", "cpu")


@pytest.fixture
def loaded_once(monkeypatch, tiny_model, loaded_backbones, untrained_distance) -> None:
    """The tiny model and the untrained distance are loaded before; each runner of this process has copies."""
    from lora_tta.evaluation import perceptual
    from lora_tta.experiment import lazy_model

    load = lazy_model.load_backbone

    def copied(params: ModelParams, device: "torch.device", for_encoding: bool = False) -> "Backbone":
        if params.path != tiny_model or device.type != "cpu":
            return load(params, device, for_encoding)
        kind = f"{params.model_dump_json()} {for_encoding}"
        if kind not in loaded_backbones:
            loaded_backbones[kind] = load(params, device, for_encoding)
        return copy.deepcopy(loaded_backbones[kind])

    monkeypatch.setattr(lazy_model, "load_backbone", copied)
    monkeypatch.setattr(perceptual, "_untrained_distance", lambda: copy.deepcopy(untrained_distance))


@pytest.fixture
def backbone(pipeline) -> "OpenSoraBackbone":
    from lora_tta.backbones.opensora import OpenSoraBackbone

    return OpenSoraBackbone(pipeline)


@pytest.fixture
def conditioning() -> "Conditioning":
    import torch

    from lora_tta.backbones.base import Conditioning

    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    return Conditioning(
        {
            "reference_latents": normal(1, 16, 9, 4, 6),
            "prompt_embeds": normal(1, 16, 16),
            "pooled_prompt_embeds": normal(1, 16),
            "negative_prompt_embeds": normal(1, 16, 16),
            "negative_pooled_prompt_embeds": normal(1, 16),
        }
    )
