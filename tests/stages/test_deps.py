"""The source files of the stages in ``dvc.yaml``, on copies of the package."""

import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from warm_processes import warm_python

from lora_tta.cache.closure import ROOT
from lora_tta.stages.deps import LOCK, stage_deps, stage_modules, with_deps

PIPELINE = Path(__file__).parents[2] / "dvc.yaml"
STAGES = set(YAML(typ="safe").load(PIPELINE)["stages"])
READS_CLIPS = {"preprocess", "encode", "baseline", "search", "adapt"}
RUNS_MODEL = {"encode", "baseline", "search", "adapt"}
ADAPTS = {"baseline", "search", "adapt"}


@pytest.fixture
def package(tmp_path) -> Path:
    return shutil.copytree(ROOT, tmp_path / "lora_tta", ignore=shutil.ignore_patterns("__pycache__"))


def covers(deps: Collection[str], file: str) -> bool:
    """Whether a file, or a folder around it, is among the dependencies."""
    path = Path("src/lora_tta") / file
    return any(Path(dep) in (path, *path.parents) for dep in deps)


@pytest.fixture(scope="module")
def real_deps() -> dict[str, list[str]]:
    return {stage: stage_deps(stage) for stage in STAGES}


def stages_of(file: str, root: Path) -> set[str]:
    """The stages that run again when a file changes."""
    return {stage for stage in STAGES if covers(stage_deps(stage, root), file)}


def test_the_pipeline_is_in_step_with_the_imports():
    text = PIPELINE.read_text()
    assert with_deps(text) == text, "run python -m lora_tta.stages.deps"


def test_every_dependency_exists(real_deps):
    for deps in real_deps.values():
        for dep in deps:
            assert (PIPELINE.parent / dep).exists(), dep


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("data/video.py", READS_CLIPS),
        ("data/transcode.py", {"preprocess"}),
        ("models/transformer.py", RUNS_MODEL),
        ("backbones/opensora.py", RUNS_MODEL),
        ("adaptation/trajectory.py", ADAPTS),
        ("adaptation/methods/lora.py", ADAPTS),
        ("generation/continuation.py", ADAPTS),
        ("evaluation/frame_metrics.py", ADAPTS),  # named in the table of metrics, and imported by its name
        # The stages that track runs log the interval of the gain.
        ("evaluation/statistics.py", {"baseline", "search", "adapt", "evaluate"}),
        ("report/page.py", {"evaluate"}),
        ("report/templates/report.html", {"evaluate"}),
        ("search/samplers.py", {"search"}),
        ("search/worker.py", {"search"}),
        ("stages/adapt.py", {"adapt"}),
        ("records/clips.py", STAGES),
        ("config.py", STAGES),
        ("models/conversion/tensors.py", set()),
        ("embedded/recipe.py", set()),
        ("cli/main.py", set()),
        ("stages/deps.py", set()),
        ("presets/embedded.yaml", set()),
    ],
)
def test_a_file_is_a_dependency_of_the_stages_that_run_it(real_deps, file, stages):
    assert (ROOT / file).is_file()
    assert {stage for stage, deps in real_deps.items() if covers(deps, file)} == stages


def test_a_new_method_runs_in_the_stages_that_adapt_with_all_that_it_imports(package):
    (package / "adaptation" / "methods" / "toy.py").write_text("from lora_tta.toys import helper")
    (package / "toys").mkdir()
    (package / "toys" / "__init__.py").touch()
    (package / "toys" / "helper.py").touch()
    (package / "toys" / "unused.py").touch()
    with_toy = {
        stage for stage in STAGES if "lora_tta.adaptation.methods.toy" in stage_modules(stage, package)
    }
    assert with_toy == ADAPTS
    assert stages_of("adaptation/methods/toy.py", package) == ADAPTS
    assert stages_of("toys/helper.py", package) == ADAPTS
    assert stages_of("toys/unused.py", package) == set()


def test_a_new_model_runs_in_the_stages_that_load_one(package):
    (package / "backbones" / "toy.py").touch()
    assert stages_of("backbones/toy.py", package) == RUNS_MODEL


def test_a_file_that_nothing_imports_is_no_dependency(package):
    (package / "data" / "unused.py").touch()
    assert stages_of("data/unused.py", package) == set()


def test_a_folder_stands_for_its_files_only_when_all_are_among_them(package):
    assert "src/lora_tta/generation" in stage_deps("adapt", package)
    assert "src/lora_tta/data" not in stage_deps("adapt", package)
    (package / "generation" / "unused.py").touch()
    deps = stage_deps("adapt", package)
    assert "src/lora_tta/generation" not in deps
    assert {"src/lora_tta/generation/__init__.py", "src/lora_tta/generation/continuation.py"} <= set(deps)


def test_compiled_files_and_typing_markers_change_nothing(package):
    before = stage_deps("adapt", package)
    compiled = package / "generation" / "__pycache__" / "continuation.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.touch()
    (package / "generation" / "py.typed").touch()
    assert stage_deps("adapt", package) == before


def test_no_dependency_lies_inside_of_another(real_deps):
    for names in real_deps.values():
        deps = [Path(name) for name in names]
        assert len(set(deps)) == len(deps)
        assert not [dep for dep in deps for folder in dep.parents if folder in deps]


def test_the_locked_libraries_are_a_dependency_of_every_stage(real_deps):
    assert all(deps[-1] == LOCK for deps in real_deps.values())


def test_data_and_comments_of_the_pipeline_stay_and_sources_are_replaced(package):
    text = (
        "stages:\n"
        "  evaluate:\n"
        "    cmd: python -m lora_tta.stages.evaluate\n"
        "    deps:\n"
        "      - outputs/clips\n"
        "      - src/lora_tta/no_longer_there.py\n"
        "      - requirements.lock\n"
        "      - ${model.path}\n"
        "    outs:\n"
        "      - outputs/report:\n"
        "          cache: false         # small\n"
    )
    after = with_deps(text, package)
    deps = YAML(typ="safe").load(after)["stages"]["evaluate"]["deps"]
    assert deps == ["outputs/clips", "${model.path}", *stage_deps("evaluate", package)]
    assert "cache: false         # small" in after
    assert with_deps(after, package) == after


def test_the_command_checks_and_writes(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [warm_python(), "-m", "lora_tta.stages.deps", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    right = PIPELINE.read_text()
    wrong = right.replace("      - src/lora_tta/data/video.py\n", "", 1)
    (tmp_path / "dvc.yaml").write_text(wrong)
    check = run("--check")
    assert check.returncode == 2
    assert "is not in step with the imports: run python -m lora_tta.stages.deps" in check.stderr
    assert (tmp_path / "dvc.yaml").read_text() == wrong
    assert run().returncode == 0
    assert (tmp_path / "dvc.yaml").read_text() == right
    assert run("--check").returncode == 0
