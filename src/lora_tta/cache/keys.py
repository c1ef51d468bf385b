"""Hashes that say whether two pieces of work are the same."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import lora_tta

# A change in any of these can change an adapter, a video or a metric.
CODE_FOLDERS = ("data", "records", "models", "backbones", "adaptation", "generation", "evaluation")
LIBRARIES = ("torch", "diffusers", "peft", "transformers")
OPTIONAL_LIBRARIES = ("flash-attn-4", "quack-kernels")


def digest(key: Mapping) -> str:
    """SHA-256 of a JSON-serialisable mapping, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def folder_sha256(folder: Path) -> str:
    """SHA-256 of the names and contents of all files below a folder."""
    return digest(
        {
            path.relative_to(folder).as_posix(): file_sha256(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    )


@cache
def code_version() -> str:
    """Hash of this package's code that results depend on, and of the libraries that compute them."""
    package = Path(lora_tta.__file__).parent
    sources = {
        path.relative_to(package).as_posix(): file_sha256(path)
        for folder in CODE_FOLDERS
        for path in sorted((package / folder).rglob("*.py"))
    }
    return digest(sources | {name: version(name) for name in LIBRARIES} | _optional_versions())


def _optional_versions() -> dict[str, str]:
    versions = {}
    for name in OPTIONAL_LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def derive_seed(seed: int, name: str) -> int:
    """A 31-bit seed for one named thing (a clip) out of a general one."""
    return int(digest({"seed": seed, "name": name})[:8], 16) >> 1
