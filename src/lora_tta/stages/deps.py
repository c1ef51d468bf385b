"""The source files that each stage depends on, in ``dvc.yaml``: written from what the stage imports.

``python -m lora_tta.stages.deps`` writes them; ``--check`` only compares.
"""

import argparse
import sys
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from lora_tta.cache.closure import PACKAGE, ROOT, all_modules, import_closure, source_files
from lora_tta.errors import UserError, report_user_errors
from lora_tta.files import write_text
from lora_tta.records.metric_table import METRICS

PIPELINE = Path("dvc.yaml")
SOURCES = f"src/{PACKAGE}"
LOCK = "requirements.lock"
# Modules that import others by their names in the settings, and these others.
LOADED_BY_NAME = {
    "lora_tta.experiment.lazy_model": "lora_tta.backbones.",
    "lora_tta.experiment.runner": "lora_tta.adaptation.methods.",
}
MEASURING = "lora_tta.evaluation.metrics"


def stage_modules(stage: str, root: Path = ROOT) -> tuple[str, ...]:
    """The modules that a stage imports, directly or by a name in the settings."""
    entries = {f"{PACKAGE}.stages.{stage}"}
    modules = import_closure(*entries, root=root)
    for loader, prefix in LOADED_BY_NAME.items():
        if loader in modules:
            entries |= {module for module in all_modules(root) if module.startswith(prefix)}
    if MEASURING in modules:
        entries |= {row.measure.partition(":")[0] for row in METRICS}
    return import_closure(*sorted(entries), root=root)


def stage_deps(stage: str, root: Path = ROOT) -> list[str]:
    """The source files of a stage as dependencies, whole folders where all of their files are among them."""
    files = {path.relative_to(root) for path in source_files(stage_modules(stage, root), root)}
    everything = {path.relative_to(root) for path in root.rglob("*") if _is_source(path)}
    deps: set[Path] = set()
    for file in files:
        folders = [folder for folder in file.parents if folder != Path(".")]
        whole = (folder for folder in reversed(folders) if _below(folder, everything) <= files)
        deps.add(next(whole, file))
    return [f"{SOURCES}/{path.as_posix()}" for path in sorted(deps)] + [LOCK]


def with_deps(pipeline: str, root: Path = ROOT) -> str:
    """The text of ``dvc.yaml`` with the source files of every stage replaced."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 110
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(pipeline)
    for stage, definition in document["stages"].items():
        others = [dep for dep in definition["deps"] if not dep.startswith(f"{SOURCES}/") and dep != LOCK]
        definition["deps"] = others + stage_deps(stage, root)
    text = StringIO()
    yaml.dump(document, text)
    return text.getvalue()


def main() -> None:
    """Write the dependencies, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    before = PIPELINE.read_text()
    after = with_deps(before)
    if not parser.parse_args().check:
        write_text(PIPELINE, after)
    elif before != after:
        raise UserError(f"{PIPELINE} is not in step with the imports: run python -m lora_tta.stages.deps")


def _is_source(path: Path) -> bool:
    return path.is_file() and path.suffix != ".pyc" and path.name != "py.typed"


def _below(folder: Path, files: set[Path]) -> set[Path]:
    return {file for file in files if folder in file.parents}


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
