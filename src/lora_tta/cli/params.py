"""``lora-tta params``: change params.yaml, keeping its comments."""

import argparse
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from lora_tta.config import NOT_YAML, load_params, validate_params
from lora_tta.errors import UserError
from lora_tta.files import atomic

PARAMS_FILE, LOCK_FILE = Path("params.yaml"), Path("dvc.lock")
FOLDERS = (("model", "path"), ("data", "root"))  # settings that are dependencies in dvc.yaml
PRESETS = Path(__file__).parents[1] / "presets"


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("params", help="change params.yaml, keeping its comments")
    parser.add_argument("--preset", choices=sorted(path.stem for path in PRESETS.glob("*.yaml")))
    parser.add_argument("--data-root", help="folder of videos, taken as it is written")
    parser.add_argument("--check-data", action="store_true", help="refuse a data folder without a video")
    parser.add_argument("assignments", nargs="*", metavar="SECTION.KEY=VALUE")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Apply a preset and assignments, and write the file if the result is valid.

    Raises:
        UserError: an assignment names no setting, the result is invalid, or the data folder that is checked
            holds no video; the file is left as it was.
    """
    yaml = _yaml()
    load_params(PARAMS_FILE)
    document = yaml.load(PARAMS_FILE)
    folders = _folders(document)
    preset = yaml.load(PRESETS / f"{arguments.preset}.yaml") if arguments.preset else {}
    for section, values in preset.items():
        document[section].update(values)
    for assignment in arguments.assignments:
        _assign(document, assignment)
    if arguments.data_root is not None:
        document["data"]["root"] = _as_folder(arguments.data_root)
    params = validate_params(document, PARAMS_FILE)
    if arguments.check_data:
        from lora_tta.data.preprocess import check_folder

        check_folder(params.data.root)
    with atomic(PARAMS_FILE) as partial:
        yaml.dump(document, partial)
    _rename_in_lock(dict(zip(folders, _folders(document), strict=True)))
    if "model" in preset:
        from lora_tta.models.loading import check_pipeline_folder

        # DVC would only say that the folder is missing.
        check_pipeline_folder(Path(document["model"]["path"]))


def _as_folder(name: str) -> str:
    """A name as it is written; ``~`` is the home folder if no folder here has that name."""
    return name if Path(name).exists() or not name.startswith("~") else os.path.expanduser(name)


def _folders(document: MutableMapping[str, Any]) -> list[str]:
    return [str(document[section][key]) for section, key in FOLDERS]


def _rename_in_lock(names: Mapping[str, str]) -> None:
    """Give the entries of folders in ``dvc.lock`` the folders' new names, with the old hashes.

    The stages are stale as before. A folder without an entry would be hashed by DVC 2's rule first and by
    DVC 3's then, in every stage: 40 seconds for a model of 24 GB.
    """
    names = {old: new for old, new in names.items() if old != new}
    if not names or not LOCK_FILE.exists():
        return
    yaml = YAML()
    yaml.width = 4096
    lock = yaml.load(LOCK_FILE)
    for stage in lock.get("stages", {}).values():
        for dep in stage.get("deps", []):
            dep["path"] = names.get(dep["path"], dep["path"])
    with atomic(LOCK_FILE) as partial:
        yaml.dump(lock, partial)


class _NullByItsName(RoundTripRepresenter):
    """Writes ``null``, where ruamel's own leaves the value out."""


_NullByItsName.add_representer(
    type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)


def _yaml() -> YAML:
    """Writes what it does not change as it stands in the file."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.Representer = _NullByItsName
    return yaml


def _assign(document: MutableMapping[str, Any], assignment: str) -> None:
    name, separator, text = assignment.partition("=")
    *path, key = name.split(".")
    target: Any = document
    for part in path:
        target = target.get(part) if isinstance(target, MutableMapping) else None
    # Any setting of the adaptation can be searched, so the space takes new names.
    may_be_new = path == ["search", "space"]
    if not separator or not isinstance(target, MutableMapping) or not (key in target or may_be_new):
        raise UserError(
            f"{assignment!r} sets nothing in {PARAMS_FILE}: write SECTION.KEY=VALUE with a key of it"
        )
    try:
        target[key] = _yaml().load(text)
    except NOT_YAML as error:
        raise UserError(
            f"{assignment!r}: the value is not valid YAML: {' '.join(str(error).split())}"
        ) from None
