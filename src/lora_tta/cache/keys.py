"""Hashes that say whether two pieces of work are the same, and seeds for named things."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lora_tta.cache.closure import ROOT, code_without_prose, import_closure, libraries, source_files

# The keys themselves hold the values of the settings, and the names and functions of the metrics. So the code
# that parses settings does not count, and no label of a metric does.
IN_KEYS = ("lora_tta.config", "lora_tta.records.metric_table")


def digest(key: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON-serialisable mapping, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


@cache
def code_version(*entries: str, root: Path = ROOT) -> str:
    """Hash of the code of the entry modules and all that they import, and of their libraries' versions.

    Comments and docstrings do not count.

    Args:
        entries: dotted names of modules.
        root: folder of the package.
    """
    modules = import_closure(*entries, leave_out=IN_KEYS, root=root)
    sources = {
        path.relative_to(root).as_posix(): hashlib.sha256(code_without_prose(path).encode()).hexdigest()
        for path in source_files(modules, root)
    }
    return digest(sources | libraries(modules, root))


def derive_seed(seed: int, name: str) -> int:
    """A 31-bit seed for one named thing (a clip) out of a general one."""
    return int(digest({"seed": seed, "name": name})[:8], 16) >> 1
