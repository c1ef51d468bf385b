"""Photographs for textures and backgrounds of rendered clips, out of packages that ship them.

``python -m lora_tta.embedded.photographs --output DIR``

``photographs.yaml`` beside this module names them: distribution, file, member, SHA-256, licence and credit.
No picture is in this repository. A distribution is fetched as a file and never built or installed.
"""

import argparse
import hashlib
import html
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal
from urllib.parse import unquote, urljoin, urlsplit

from PIL import Image
from ruamel.yaml import YAML
from tqdm import tqdm

from lora_tta.errors import UserError, report_user_errors
from lora_tta.files import atomic

TABLE = Path(__file__).with_suffix(".yaml")
STALL_SECONDS = 60.0
QUALITY = 95  # of the JPEG files: textures shall not learn the blocks of a second compression


@dataclass(frozen=True)
class Photograph:
    """A picture inside a distribution.

    Attributes:
        member: its path there.
        sha256: of its file.
        licence: an SPDX identifier, or a public domain mark in words.
        stated_for: what the distribution states the licence for, this ``picture`` or the whole ``package``.
        credit: author or source, empty where the distribution names none.
    """

    member: str
    sha256: str
    licence: str
    stated_for: Literal["picture", "package"]
    credit: str


@dataclass(frozen=True)
class Distribution:
    """A wheel or an sdist on a package index.

    Attributes:
        requirement: ``name==version``.
        file: its file's name.
        photographs: those that are taken from it.
    """

    requirement: str
    file: str
    photographs: tuple[Photograph, ...]


def read_table(path: Path = TABLE) -> list[Distribution]:
    """The distributions and photographs of a table."""
    return [
        Distribution(
            row["distribution"], row["file"], tuple(Photograph(**each) for each in row["photographs"])
        )
        for row in YAML(typ="safe").load(path)
    ]


def index_of_pip() -> str:
    """The package index that pip is set to. Only its help names it, whatever it was set by."""
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--help"],
        env=os.environ | {"COLUMNS": "1000"},
        capture_output=True,
        text=True,
    )
    found = re.search(r"--index-url <url>.*?\(default (\S+)\)", answer.stdout)
    if not found:
        raise UserError("pip does not tell its package index: name one with --index")
    return found[1]


def fetch(distribution: Distribution, index: str, folder: Path) -> Path:
    """Download a distribution's file to a folder.

    Args:
        distribution: which.
        index: address of a PEP 503 index.
        folder: an existing one.

    Raises:
        UserError: the index does not answer or lacks the file.
    """
    name = re.sub(r"[-_.]+", "-", distribution.requirement.partition("==")[0]).lower()
    page = f"{index.rstrip('/')}/{name}/"
    try:
        with urllib.request.urlopen(page, timeout=STALL_SECONDS) as answer:
            links = re.findall(r'href="([^"]+)"', answer.read().decode())
        addresses = [urljoin(page, html.unescape(link)) for link in links]
        address = next((each for each in addresses if file_name(each) == distribution.file), None)
        if address is None:
            raise UserError(f"{page} has no {distribution.file}: name another package index with --index")
        path = folder / distribution.file
        with urllib.request.urlopen(address, timeout=STALL_SECONDS) as answer, path.open("wb") as file:
            while block := answer.read(1 << 20):
                file.write(block)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{distribution.file} could not be fetched from {index} ({error}): check the connection, or name "
            "another package index with --index"
        ) from error
    return path


def file_name(address: str) -> str:
    """The last part of an address, without its fragment."""
    return unquote(urlsplit(address).path).rpartition("/")[2]


def pictures(path: Path, photographs: tuple[Photograph, ...]) -> Iterator[tuple[Photograph, bytes]]:
    """The photographs' files out of a wheel or an sdist, in the archive's order.

    Raises:
        UserError: the archive is damaged, lacks one of them, or has another picture in its place.
    """
    wanted = {each.member: each for each in photographs}
    try:
        for member, content in _members(path, set(wanted)):
            photograph = wanted.pop(member)
            if hashlib.sha256(content).hexdigest() != photograph.sha256:
                raise UserError(
                    f"{member} in {path.name} is not the picture that was chosen (its SHA-256 differs): name "
                    "another package index with --index, or correct the table"
                )
            yield photograph, content
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{path.name} is damaged ({error}): fetch it again") from error
    if wanted:
        raise UserError(f"{path.name} has no {min(wanted)}: correct the table")


def _members(path: Path, names: set[str]) -> Iterator[tuple[str, bytes]]:
    if path.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name in names:
                    yield name, archive.read(name)
    else:
        with tarfile.open(path, "r|*") as archive:
            for entry in archive:
                file = archive.extractfile(entry) if entry.name in names else None
                if file is not None:
                    yield entry.name, file.read()


def shrink(content: bytes, shorter_side: int) -> Image.Image:
    """The picture of a file, grey or in colours, at most so many pixels on its shorter side."""
    picture = Image.open(io.BytesIO(content))
    picture = picture.convert("L" if picture.mode in ("L", "LA") else "RGB")
    scale = min(1.0, shorter_side / min(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def collect(
    output: Path, index: str, distributions: list[Distribution], shorter_side: int = 512
) -> list[Path]:
    """Write the photographs as ``001.jpg`` and so on, and ``photographs.json``, which says what they are.

    The folder appears when all are there; one that existed is replaced. A distribution is removed as soon as
    its pictures are out.

    Args:
        output: the folder.
        index: address of a PEP 503 index.
        distributions: where the photographs are.
        shorter_side: greatest length in pixels; smaller pictures keep their size.

    Returns:
        The pictures' files, in the order of the table.
    """
    written: list[Path] = []
    listing: list[dict[str, str]] = []
    with atomic(output) as partial:
        partial.mkdir()
        for distribution in tqdm(distributions, desc="fetching distributions"):
            with TemporaryDirectory() as folder:
                archive = fetch(distribution, index, Path(folder))
                found = dict(pictures(archive, distribution.photographs))
            for photograph in distribution.photographs:
                file = f"{len(written) + 1:03d}.jpg"
                shrink(found[photograph], shorter_side).save(partial / file, quality=QUALITY)
                source = {"distribution": distribution.requirement, "file": distribution.file}
                listing.append({"name": file} | source | asdict(photograph))
                written.append(output / file)
        (partial / "photographs.json").write_text(json.dumps(listing, indent=2, ensure_ascii=False), "utf-8")
    return written


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--index", help="address of a package index (PEP 503); default: the one of pip")
    parser.add_argument(
        "--shorter-side", type=int, default=512, help="greatest length in pixels (default: %(default)s)"
    )
    arguments = parser.parse_args()
    written = collect(
        arguments.output, arguments.index or index_of_pip(), read_table(), arguments.shorter_side
    )
    print(f"{len(written)} photographs in {arguments.output}")


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
