"""A model folder is identified once: by DVC's hash of it, or by one that is remembered.

The identity of a folder is the hash that DVC gives it, the MD5 of the list of its files with their MD5
(https://dvc.org/doc/user-guide/project-structure/internal-files#directories).
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path

from filelock import FileLock
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from tqdm import tqdm

from lora_tta.cache.keys import digest
from lora_tta.errors import UserError
from lora_tta.files import write_text

READERS = 8
SHOWS_PROGRESS_ABOVE = 10**9  # bytes


def model_identity(
    folder: Path, memory: Path, hash_files: Callable[[Path], str | None] = lambda _: None
) -> str:
    """The identity of a model folder, hashed at most once for all processes that share ``memory``.

    1. A remembered identity holds as long as no file has another size or time stamp.
    2. A folder that is seen for the first time has DVC's identity, if DVC tracks it and its number of files
       and bytes is still the tracked one.
    3. Otherwise its files are hashed, by one process while the others wait.

    Args:
        folder: of the model.
        memory: a JSON file that remembers identities.
        hash_files: finds DVC's hash of a folder by reading its files; None where it can't.

    Raises:
        UserError: the folder is missing or empty.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    if not files:
        raise UserError(f"{folder} holds no model: check model.path")
    stats = {path.relative_to(folder).as_posix(): path.stat() for path in files}
    signature = digest({name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()})
    num_bytes = sum(stat.st_size for stat in stats.values())
    name = str(folder.resolve())
    memory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(memory.with_name(f".{memory.name}.lock")):
        remembered = _read(memory)
        known = remembered.get(name)
        if known and known["signature"] == signature:
            return known["identity"]
        identity = None if known else _tracked(folder, len(files), num_bytes)
        identity = identity or hash_files(folder) or hash_folder(folder, files, num_bytes)
        remembered[name] = {"signature": signature, "identity": identity}
        write_text(memory, json.dumps(remembered, indent=1, sort_keys=True))
        return identity


def hash_folder(folder: Path, files: list[Path], num_bytes: int) -> str:
    """DVC's hash of a folder, of which ``files`` are all files."""
    show = num_bytes > SHOWS_PROGRESS_ABOVE
    with (
        ThreadPoolExecutor(READERS) as readers,
        tqdm(total=num_bytes, desc=f"hashing {folder}", unit="B", unit_scale=True, disable=not show) as bar,
    ):

        def hash_file(path: Path) -> str:
            with path.open("rb") as file:
                value = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            bar.update(path.stat().st_size)
            return value

        entries = [
            {"md5": value, "relpath": path.relative_to(folder).as_posix()}
            for path, value in zip(files, readers.map(hash_file, files), strict=True)
        ]
    entries.sort(key=itemgetter("relpath"))
    listing = json.dumps(entries, sort_keys=True).encode()
    return f"{hashlib.md5(listing, usedforsecurity=False).hexdigest()}.dir"


def _tracked(folder: Path, num_files: int, num_bytes: int) -> str | None:
    """DVC's hash in the ``.dvc`` file beside the folder, if it speaks of as many files and bytes."""
    try:
        values = YAML(typ="safe").load(folder.with_name(f"{folder.name}.dvc"))
        (output,) = values["outs"]
        if (output.get("nfiles"), output.get("size")) == (num_files, num_bytes):
            return output["md5"]
    except (OSError, YAMLError, AttributeError, TypeError, KeyError, ValueError):
        pass
    return None


def _read(memory: Path) -> dict[str, dict[str, str]]:
    """Signature and identity of each folder by its path; damaged entries are left out."""
    try:
        entries = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {
        name: entry
        for name, entry in entries.items()
        if isinstance(entry, dict) and {"signature", "identity"} <= entry.keys()
    }
