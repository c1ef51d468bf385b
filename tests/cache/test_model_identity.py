"""The identity of a model folder, beside the real DVC."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lora_tta.cache import model_identity as module
from lora_tta.cache.model_identity import model_identity
from lora_tta.errors import UserError

DVC = [sys.executable, "-m", "dvc"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A new repository of DVC, to be copied."""
    folder = tmp_path_factory.mktemp("dvc")
    subprocess.run([*DVC, "init", "--no-scm", "-q"], cwd=folder, check=True)
    return folder


@pytest.fixture
def folder(repository, tmp_path) -> Path:
    """A model of several files, whose names are hard to sort and to write, in a repository."""
    folder = shutil.copytree(repository, tmp_path / "repository") / "model"
    names = [
        "config.json",
        "vae/weights.bin",
        "vae-2/weights.bin",
        "vae.json",
        "vae 3/a b.txt",
        "vae/deep/er/weights.bin",
        "Upper/UPPER.txt",
        'odd "quoted" name.txt',
        "ümläut/文.txt",
        ".hidden",
        "empty.txt",
    ]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name == "empty.txt" else f"content of {name}\r\n", newline="")
    return folder


@pytest.fixture
def memory(tmp_path) -> Path:
    return tmp_path / "cache" / "models.json"


@pytest.fixture
def unread(monkeypatch):
    """From the call on, hashing a folder is a failure."""

    def forbid() -> None:
        monkeypatch.setattr(module, "hash_folder", lambda folder, *_: pytest.fail(f"{folder} was read"))

    return forbid


def tracked(folder: Path) -> str:
    """DVC's hash of a folder, from the file that ``dvc add`` writes beside it."""
    subprocess.run([*DVC, "add", "-q", folder.name], cwd=folder.parent, check=True)
    (output,) = YAML(typ="safe").load(folder.with_name("model.dvc"))["outs"]
    return output["md5"]


def test_it_is_dvcs_hash_whatever_the_names_of_the_files(folder, memory):
    own = model_identity(folder, memory)
    assert own.endswith(".dir")
    assert own == tracked(folder)


def test_a_folder_that_is_seen_again_is_not_read(folder, memory, unread):
    first = model_identity(folder, memory)
    unread()
    assert model_identity(folder, memory) == first


def test_another_path_to_the_same_folder_is_the_same_folder(folder, memory, unread):
    first = model_identity(folder, memory)
    unread()
    assert model_identity(folder.parent / "." / ".." / "repository" / "model", memory) == first
    link = folder.with_name("link")
    link.symlink_to(folder)
    assert model_identity(link, memory) == first


def test_a_file_of_another_size_is_another_model(folder, memory):
    first = model_identity(folder, memory)
    (folder / "config.json").write_text("longer than it was before, and different")
    assert model_identity(folder, memory) != first


def test_a_file_with_another_time_stamp_is_read_again(folder, memory):
    config = folder / "config.json"
    first, stat = model_identity(folder, memory), config.stat()
    config.write_bytes(config.read_bytes().swapcase())
    os.utime(config, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert config.stat().st_size == stat.st_size
    assert model_identity(folder, memory) != first


def test_a_file_that_was_only_touched_leaves_the_identity(folder, memory):
    first = model_identity(folder, memory)
    os.utime(folder / "config.json", (1, 1))
    assert model_identity(folder, memory) == first


def add(folder: Path) -> None:
    (folder / "another").touch()


def remove(folder: Path) -> None:
    (folder / "vae.json").unlink()


def rename(folder: Path) -> None:
    (folder / "vae.json").rename(folder / "vae2.json")


@pytest.mark.parametrize("change", [add, remove, rename])
def test_a_folder_with_other_files_is_another_model(folder, memory, change):
    first = model_identity(folder, memory)
    change(folder)
    assert model_identity(folder, memory) != first


def test_what_python_compiles_inside_does_not_count(folder, memory, unread):
    first = model_identity(folder, memory)
    compiled = folder / "vae" / "__pycache__" / "model.pyc"
    compiled.parent.mkdir()
    compiled.touch()
    unread()
    assert model_identity(folder, memory) == first


def test_a_tracked_folder_is_not_read_when_it_is_first_seen(folder, memory, unread):
    identity = tracked(folder)
    unread()
    assert model_identity(folder, memory) == identity


def test_a_dvc_file_that_tells_of_other_files_is_not_believed(folder, memory):
    before = tracked(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text("of another size")
    now = model_identity(folder, memory)
    assert now != before
    assert now == tracked(folder)


def test_a_tracked_folder_that_changes_after_it_was_seen_is_read(folder, memory):
    before = tracked(folder)
    assert model_identity(folder, memory) == before
    config = folder / "config.json"
    text = config.read_bytes().swapcase()
    config.unlink()
    config.write_bytes(text)
    now = model_identity(folder, memory)
    assert now != before  # although the number of files and bytes is still the tracked one
    assert now == tracked(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "text",
        "outs: []",
        "outs: [text]",
        "outs: [{path: model}]",
        "outs:\n- {nfiles: 11}\n- {}",
        "\0",
    ],
)
def test_a_dvc_file_that_cannot_be_read_is_ignored(folder, memory, text):
    folder.with_name("model.dvc").write_text(text)
    assert model_identity(folder, memory).endswith(".dir")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        '{"FOLDER": null}',
        '{"FOLDER": "text"}',
        '{"FOLDER": {"signature": "half"}}',
        "\udcff",
    ],
)
def test_a_damaged_memory_is_ignored_and_written_anew(folder, memory, text, unread):
    memory.parent.mkdir()
    damaged = text.replace("FOLDER", str(folder))
    memory.write_bytes(damaged.encode(errors="surrogateescape"))
    identity = model_identity(folder, memory)
    assert identity.endswith(".dir")
    unread()
    assert model_identity(folder, memory) == identity


def test_two_models_are_remembered_beside_each_other(folder, memory, tmp_path, unread):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").touch()
    identities = [model_identity(folder, memory), model_identity(other, memory)]
    assert identities[0] != identities[1]
    unread()
    assert [model_identity(folder, memory), model_identity(other, memory)] == identities


SLOW = """
import sys, time
from pathlib import Path
from lora_tta.cache import model_identity as module

hash_folder = module.hash_folder

def slow(*arguments):
    with Path(sys.argv[3]).open("a") as log:
        log.write("hashed\\n")
    time.sleep(0.5)
    return hash_folder(*arguments)

module.hash_folder = slow
print("ready", flush=True)
sys.stdin.readline()
print(module.model_identity(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_processes_that_ask_at_once_read_the_folder_once(folder, memory, tmp_path):
    arguments = [sys.executable, "-c", SLOW, str(folder), str(memory), str(tmp_path / "log")]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    identities = {process.communicate()[0].strip() for process in processes}
    assert identities == {model_identity(folder, memory)}
    assert (tmp_path / "log").read_text() == "hashed\n"


def test_a_missing_or_empty_folder_is_the_users_error(tmp_path, memory):
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    for name in ("missing", "empty"):
        with pytest.raises(UserError, match=f"{name} holds no model: check model.path"):
            model_identity(tmp_path / name, memory)
