"""Unpacking archives of a data set, trusting none of their members."""

import lzma
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from lora_tta.errors import UserError

# zipfile and tarfile know zip and tar, these programs know the rest. {archive} and {folder} are filled in.
_PROGRAMS = {
    "unrar": ["x", "-idq", "-o+", "-p-", "{archive}", "{folder}/"],
    "bsdtar": ["-xf", "{archive}", "-C", "{folder}"],
    "7z": ["x", "-y", "-bd", "-p", "-o{folder}", "{archive}"],
}
# Nine times as much as UCF-101; a few kilobytes can claim more than any disk holds.
_MAX_BYTES = 64 * 2**30


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive (.zip, .tar.*, or what an installed program knows, such as .rar) into a folder.

    Raises:
        UserError: the archive is damaged, encrypted, of an unknown kind or larger than 64 GiB; or a member
            lies outside the folder or is neither a file nor a folder.
    """
    suffixes = {name: tuple(endings) for name, endings, _ in shutil.get_unpack_formats()}
    name = archive.name.lower()
    try:
        if name.endswith(suffixes.pop("zip")):
            _unpack_zip(archive, folder)
        elif name.endswith(sum(suffixes.values(), ())):
            _unpack_tar(archive, folder)
        else:
            _unpack_by_program(archive, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise _failure(archive, error) from None
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _failure(archive, error) from None
    except subprocess.CalledProcessError as error:
        problem = (error.stderr or b"").decode(errors="replace") or f"status {error.returncode}"
        raise _failure(archive, f"{error.cmd[0]}: {problem}") from None


def _failure(archive: Path, reason: object) -> UserError:
    said = " ".join(str(reason).split()) or type(reason).__name__
    return UserError(f"{archive} cannot be unpacked ({said}): download it again or extract it yourself")


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            _check(member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
        _check_size(sum(member.file_size for member in members))
        for member in members:
            file.extract(member, folder)


def _unpack_tar(archive: Path, folder: Path) -> None:
    size = 0
    with tarfile.open(archive) as file:
        # The filter came with Python 3.11.4; the checks here are stricter.
        file.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        for member in file:
            _check(member.name, member.isfile() or member.isdir())
            size += member.size
            _check_size(size)
            file.extract(member, folder)


def _unpack_by_program(archive: Path, folder: Path) -> None:
    for program, arguments in _PROGRAMS.items():
        if shutil.which(program):
            filled = [argument.format(archive=archive.absolute(), folder=folder) for argument in arguments]
            subprocess.run([program, *filled], check=True, stdin=subprocess.DEVNULL, capture_output=True)
            break
    else:
        raise UserError(
            f"{archive} needs one of {', '.join(_PROGRAMS)} to be unpacked: "
            "install one, or extract it yourself and give the folder"
        )
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        _check(path.relative_to(folder).as_posix(), stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _check(name: str, is_plain: bool) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")):
        raise ValueError(f"its member {name} lies outside of it")
    if not is_plain:
        raise ValueError(f"its member {name} is a link or a device")


def _check_size(size: int) -> None:
    if size > _MAX_BYTES:
        raise ValueError(f"its members have {size // 2**30} GiB or more, {_MAX_BYTES // 2**30} are allowed")
