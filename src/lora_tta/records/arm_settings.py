"""The settings that an arm was made with, beside its results: ``settings.json``, ``section.key`` to value."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_tta.files import write_text
from lora_tta.records.point import flatten

SETTINGS = "settings.json"


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write nested settings."""
    write_text(folder / SETTINGS, json.dumps(flatten(settings), indent=1) + "\n")


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings by ``section.key``; empty where none were written."""
    file = folder / SETTINGS
    return json.loads(file.read_text()) if file.exists() else {}


def different_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What two arms were made with otherwise, one line a setting, or one a section that one arm alone has."""
    sections = [{name.partition(".")[0] for name in settings} for settings in (before, after)]
    alone = sections[0] ^ sections[1]
    lines = [f"{section}: in {'A' if section in sections[0] else 'B'} alone" for section in sorted(alone)]
    for name in sorted(before.keys() | after.keys()):
        if name.partition(".")[0] not in alone and before.get(name) != after.get(name):
            lines.append(f"{name}: {before.get(name, '-')} and {after.get(name, '-')}")
    return lines
