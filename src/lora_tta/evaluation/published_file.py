"""A file of weights that someone publishes: where it lies, how it is fetched, and whether it is the one."""

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlparse

import torch

from lora_tta.files import file_sha256

PROBE_SECONDS = 3.0
STALL_SECONDS = 30.0


@dataclass(frozen=True)
class PublishedFile:
    """A file in torch hub's checkpoint folder.

    Attributes:
        url: where it is published.
        sha256: its SHA-256, or the first digits.
    """

    url: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where the file lies, or is to lie."""
        return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(self.url).path).name

    def problem(self) -> str | None:
        """Why the file is not to be had, in a few words; None if it is there or could be fetched.

        A host is asked once in a process.
        """
        path = self.path
        if not path.exists():
            failure = _fetch(path, self.url, self.sha256)
            if failure is not None:
                return f"{path.name} is not in {path.parent} and could not be fetched ({failure})"
        if not file_sha256(path).startswith(self.sha256):
            return f"{path} is damaged or another file (its SHA-256 does not start with {self.sha256[:16]})"
        return None


@cache
def _fetch(file: Path, url: str, sha256: str) -> str | None:
    """Download ``url`` to ``file`` if its host answers; returns what went wrong."""
    failure = _probe(url)
    if failure is not None:
        return failure
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _socket_timeout(STALL_SECONDS):
            torch.hub.download_url_to_file(url, str(file), hash_prefix=sha256)
    except (OSError, RuntimeError) as error:
        return str(error)
    return None


def _probe(url: str) -> str | None:
    """Ask the host for the file's headers; a thread, because no timeout covers the look-up of a name."""
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
            outcome.append(None)
        except OSError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return outcome[0] if outcome else f"no answer in {PROBE_SECONDS:g} s"


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
