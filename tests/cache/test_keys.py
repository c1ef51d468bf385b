"""What another version of the code is, on copies of the package that are changed in one place."""

import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lora_tta.backbones import backbone_module
from lora_tta.cache import closure, keys
from lora_tta.cache.closure import ROOT
from lora_tta.cache.keys import code_version, derive_seed, digest
from lora_tta.config import load_params
from lora_tta.experiment import clip_work
from lora_tta.experiment.encoding import READING

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
ADAPTER, CONTINUATION, RESULT, CONDITIONING = "adapter", "continuation", "result", "conditioning"
# The kinds that need the model.
WITH_MODEL = {ADAPTER, CONTINUATION, CONDITIONING}
EVERY = {*WITH_MODEL, RESULT}


def test_a_digest_is_of_the_content_not_of_its_order():
    items = [("a", 1), ("b", [1, 2]), ("c", {"x": None, "y": 1.5})]
    shuffled = random.Random(0).sample(items, len(items))
    assert digest(dict(items)) == digest(dict(shuffled)) == digest(dict(reversed(items)))
    assert digest({"c": {"y": 1.5, "x": None}}) == digest({"c": {"x": None, "y": 1.5}})


def test_a_digest_tells_values_their_types_and_their_order_in_lists_apart():
    values = [1, 1.5, "1", None, True, [1, 2], [2, 1], {}]
    assert len({digest({"a": value}) for value in values}) == len(values)
    assert digest({"a": 1}) != digest({"b": 1})


def test_seeds_differ_by_name_and_by_seed_and_fit_31_bits():
    seeds = {derive_seed(seed, name) for seed in range(3) for name in ("clip_a", "clip_b")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(0, "clip_a") == derive_seed(0, "clip_a")


@cache
def code_of(suffix: str, content: bytes) -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content)
        return closure.code_without_prose(path)


def versions(root: Path = ROOT) -> dict[str, str]:
    """The versions of the code of every kind of work; only files that have changed are parsed again."""
    own_version: Callable[..., str] = partial(code_version.__wrapped__, root=root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_work, "code_version", own_version)
        patch.setattr(keys, "code_without_prose", lambda path: code_of(path.suffix, path.read_bytes()))
        return {
            ADAPTER: clip_work.adaptation_code(PARAMS.model, PARAMS.adaptation.method.name),
            CONTINUATION: clip_work.generation_code(PARAMS.model),
            RESULT: clip_work.measuring_code(),
            CONDITIONING: own_version(READING, backbone_module(PARAMS.model.backbone)),
        }


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    return versions()


@pytest.fixture
def package(tmp_path) -> Path:
    return shutil.copytree(ROOT, tmp_path / "lora_tta", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def changed(before) -> Callable[[Path], set[str]]:
    """The kinds of work whose version is no more what it was."""

    def kinds(root: Path = ROOT) -> set[str]:
        return {kind for kind, value in versions(root).items() if value != before[kind]}

    return kinds


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} no longer holds {old}"
    path.write_text(text.replace(old, new, 1))


def test_the_versions_of_a_copy_are_the_same_wherever_it_lies(package, changed):
    assert changed(package) == set()


def test_comments_docstrings_and_blank_lines_do_not_count(package, changed):
    for path in package.rglob("*.py"):
        path.write_text(f'"""Another docstring."""\n\n\n# A comment.\n{path.read_text()}\n\n# The end.\n')
    video = package / "data" / "video.py"
    edit(video, "Decode a video to RGB.", "Decode a video.")
    edit(video, "QUANTISER = 10", "QUANTISER = 10  # of x264")
    assert changed(package) == set()


def test_a_number_counts(package, changed):
    edit(package / "data" / "video.py", "QUANTISER = 10", "QUANTISER = 11")
    assert changed(package) == EVERY


CODE = "\nADDED = 1\n"


@pytest.mark.parametrize(
    ("file", "kinds"),
    [
        ("data/video.py", EVERY),
        ("data/scaling.py", EVERY),
        ("data/preprocess.py", set()),
        ("adaptation/trajectory.py", {ADAPTER}),
        ("adaptation/objective.py", {ADAPTER}),
        ("adaptation/methods/lora.py", {ADAPTER}),
        ("backbones/opensora.py", WITH_MODEL),
        ("models/transformer.py", WITH_MODEL),
        ("models/speed/qkv_kernel.py", WITH_MODEL),
        ("models/conversion/tensors.py", set()),
        ("generation/continuation.py", {CONTINUATION}),
        ("evaluation/frame_metrics.py", {RESULT}),
        ("evaluation/perceptual.py", {RESULT}),
        ("records/metric_table.py", set()),
        ("evaluation/statistics.py", set()),
        ("report/page.py", set()),
        ("report/templates/report.html", set()),
        ("report/filmstrip.py", set()),
        ("search/worker.py", set()),
        ("search/study.py", set()),
        ("search/samplers.py", set()),
        ("tracking/mlflow_runs.py", set()),
        ("experiment/runner.py", set()),
        ("cli/summary.py", set()),
        ("config.py", set()),
    ],
)
def test_code_counts_for_the_kinds_of_work_that_it_does(package, changed, file, kinds):
    path = package / file
    path.write_text(path.read_text() + CODE)
    assert changed(package) == kinds


def test_another_method_of_adaptation_counts_for_its_own_adapters_only(package, changed):
    (package / "adaptation" / "methods" / "toy.py").write_text(CODE)
    assert changed(package) == set()


@pytest.mark.parametrize(
    ("library", "kinds"),
    [
        ("torch", EVERY),
        ("numpy", EVERY),
        ("av", EVERY),
        ("torchmetrics", {RESULT}),
        ("lpips", {RESULT}),
        ("torchvision", {RESULT}),
        ("diffusers", WITH_MODEL),
        ("transformers", WITH_MODEL),
        ("peft", WITH_MODEL),
        ("safetensors", WITH_MODEL),
        ("optuna", set()),
        ("mlflow", set()),
        ("pandas", set()),
        ("jinja2", set()),
        ("pydantic", set()),
    ],
)
def test_another_version_of_a_library_counts_for_the_kinds_that_use_it(changed, monkeypatch, library, kinds):
    monkeypatch.setattr(closure, "version", lambda name: "99" if name == library else version(name))
    assert changed() == kinds


@pytest.fixture
def fresh_distributions() -> Iterator[None]:
    """The installed libraries are looked up anew in this test, and after it."""
    closure._distributions.cache_clear()
    yield
    closure._distributions.cache_clear()


@pytest.mark.usefixtures("fresh_distributions")
@pytest.mark.parametrize("listing", ["RECORD", "top_level.txt"])
@pytest.mark.parametrize(
    ("module", "distribution"), [("flash_attn", "flash-attn-4"), ("quack", "quack-kernels")]
)
def test_an_optional_library_counts_where_it_is_installed(
    changed, tmp_path, monkeypatch, module, distribution, listing
):
    seen = [versions()]
    for release in ("98.0", "98.1"):
        folder = tmp_path / release
        metadata = folder / f"{distribution.replace('-', '_')}-{release}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {release}\n"
        )
        # Some finders of installed libraries leave out files that are listed and missing.
        source = folder / module / "interface.py"
        source.parent.mkdir()
        source.touch()
        text = f"{module}/interface.py,,\n" if listing == "RECORD" else f"{module}\n"
        (metadata / listing).write_text(text)
        monkeypatch.syspath_prepend(folder)
        closure._distributions.cache_clear()
        assert changed() == WITH_MODEL
        seen.append(versions())
    assert len({each[ADAPTER] for each in seen}) == 3


def test_a_version_is_computed_once_a_process():
    assert code_version(READING) is code_version(READING)


def test_an_unknown_entry_is_an_error():
    with pytest.raises(ValueError, match="no_such_module"):
        code_version("lora_tta.no_such_module")
