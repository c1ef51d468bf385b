"""Photographs come out of packages as the table names them, or not at all."""

import hashlib
import io
import json
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_tta.embedded.photographs import Distribution, Photograph, collect, index_of_pip, read_table
from lora_tta.errors import UserError

WHEEL, SDIST = "little_pictures-1.0-py3-none-any.whl", "little_pictures-1.0.tar.gz"


def png(mode: str, width: int, height: int) -> bytes:
    channels = {"L": (), "RGB": (3,)}[mode]
    noise = np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "png")
    return file.getvalue()


COLOUR, GREY = png("RGB", 60, 40), png("L", 20, 30)


def wheel(member: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, content)
        archive.writestr("little_pictures/code.py", "pass")
    return file.getvalue()


def sdist(member: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        entry = tarfile.TarInfo(member)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def row(file: str, member: str, content: bytes) -> Distribution:
    sha256 = hashlib.sha256(content).hexdigest()
    photograph = Photograph(member, sha256, "CC0-1.0", "picture", "Someone")
    return Distribution("Little.Pictures==1.0", file, (photograph,))


FREE = {
    *(
        "public domain",
        "no known copyright restrictions",
        "CC0-1.0",
        "CC-BY-2.0",
        "CC-BY-3.0",
        "CC-BY-SA-3.0",
    ),
    *("MIT", "MIT-CMU", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "PSF-based"),
}
IN_WHEEL = row(WHEEL, "little_pictures/meadow.png", COLOUR)
IN_SDIST = row(SDIST, "little_pictures-1.0/tests/wall.png", GREY)


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Serves a package index with the given files of little-pictures, and returns its address."""
    root = tmp_path / "index"
    page = root / "simple" / "little-pictures" / "index.html"
    page.parent.mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(root)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def serve(**files: bytes) -> str:
        named = {{"wheel": WHEEL, "sdist": SDIST}[kind]: content for kind, content in files.items()}
        for name, content in named.items():
            (root / name).write_bytes(content)
        links = (f'<a href="../../{name}#sha256=0&amp;x">{name}</a>' for name in named)
        page.write_text(f"<html><body>{''.join(links)}</body></html>")
        return f"http://127.0.0.1:{server.server_port}/simple/"

    yield serve
    server.shutdown()
    server.server_close()


def test_pictures_of_wheels_and_sdists_are_numbered_shrunk_and_listed(
    index: Callable[..., str], tmp_path: Path
) -> None:
    address = index(
        wheel=wheel("little_pictures/meadow.png", COLOUR),
        sdist=sdist("little_pictures-1.0/tests/wall.png", GREY),
    )
    written = collect(tmp_path / "photographs", address, [IN_WHEEL, IN_SDIST], shorter_side=30)
    pictures = [Image.open(path) for path in written]
    assert [path.name for path in written] == ["001.jpg", "002.jpg"]
    assert [(each.mode, each.size) for each in pictures] == [("RGB", (45, 30)), ("L", (20, 30))]
    listing = json.loads((tmp_path / "photographs" / "photographs.json").read_text())
    assert [(each["name"], each["distribution"], each["licence"]) for each in listing] == [
        ("001.jpg", "Little.Pictures==1.0", "CC0-1.0"),
        ("002.jpg", "Little.Pictures==1.0", "CC0-1.0"),
    ]


def refusal(index: str, distribution: Distribution, output: Path) -> str:
    """The one line with which a distribution is refused; the folder of the last time is as it was."""
    output.mkdir()
    (output / "001.jpg").write_bytes(b"of the last time")
    with pytest.raises(UserError) as refused:
        collect(output, index, [distribution])
    assert [path.name for path in output.parent.iterdir() if path.name != "index"] == [output.name]
    assert (output / "001.jpg").read_bytes() == b"of the last time"
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_another_picture_in_its_place_is_refused(index: Callable[..., str], tmp_path: Path) -> None:
    address = index(wheel=wheel("little_pictures/meadow.png", GREY))
    line = refusal(address, IN_WHEEL, tmp_path / "photographs")
    assert re.search("meadow.png in .*whl is not the picture that was chosen", line)


def test_a_damaged_archive_is_refused(index: Callable[..., str], tmp_path: Path) -> None:
    address = index(sdist=sdist("little_pictures-1.0/tests/wall.png", GREY)[:-300])
    assert "is damaged" in refusal(address, IN_SDIST, tmp_path / "photographs")


def test_a_missing_picture_is_refused(index: Callable[..., str], tmp_path: Path) -> None:
    address = index(wheel=wheel("little_pictures/wood.png", COLOUR))
    assert "has no little_pictures/meadow.png" in refusal(address, IN_WHEEL, tmp_path / "photographs")


def test_a_missing_distribution_is_refused(index: Callable[..., str], tmp_path: Path) -> None:
    other = replace(IN_WHEEL, file="little_pictures-2.0-py3-none-any.whl")
    line = refusal(index(wheel=b""), other, tmp_path / "photographs")
    assert "has no little_pictures-2.0-py3-none-any.whl: name another package index" in line


def test_an_index_without_the_project_is_refused(index: Callable[..., str], tmp_path: Path) -> None:
    other = replace(IN_WHEEL, requirement="large-pictures==1.0")
    assert "could not be fetched" in refusal(index(), other, tmp_path / "photographs")


def test_the_index_is_the_one_that_pip_is_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    assert index_of_pip() == "http://127.0.0.1:1/simple"


def test_every_photograph_of_the_table_is_one_picture_with_a_free_licence() -> None:
    table = read_table()
    photographs = [each for distribution in table for each in distribution.photographs]
    assert len(photographs) >= 60
    assert len({each.sha256 for each in photographs}) == len(photographs)
    assert all(re.fullmatch("[0-9a-f]{64}", each.sha256) for each in photographs)
    assert {each.licence for each in photographs} <= FREE
    assert {each.stated_for for each in photographs} == {"picture", "package"}
    assert all(each.credit for each in photographs if each.licence.startswith("CC-BY"))
    assert all("==" in each.requirement and each.photographs for each in table)
