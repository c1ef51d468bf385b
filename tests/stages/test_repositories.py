"""Repositories as people keep them, with real DVC and Git: linked caches, remotes, copies, two at once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import clip_results
import pytest
from commands import REPOSITORY, run_in
from prepared_clips import prepare_clips
from ruamel.yaml import YAML
from warm_processes import warm_python

from lora_tta.cli.main import main
from lora_tta.records.clips import write_manifest

COLD_DVC = ("env", f"PYTHONPATH={REPOSITORY / 'src'}", sys.executable, "-m", "dvc")
DVC = (*COLD_DVC[:2], "dvc")
# Writes a table of results whose PSNR is 10 and the seed of the settings; works while a file `wait` is there.
STAGE = """
import time
from clip_results import make_result
from lora_tta.files import atomic
from lora_tta.records.results import write_results
from lora_tta.stages.paths import ADAPT
from lora_tta.stages.stage_params import load_stage_params

params = load_stage_params()
finished_work = params.cache.path
finished_work.mkdir(parents=True, exist_ok=True)
(finished_work / f"seed {params.generation.seed}").touch()
while (finished_work / "wait").exists():
    time.sleep(0.05)
with atomic(ADAPT) as folder:
    write_results(folder, [make_result(clip_id, 10 + params.generation.seed) for clip_id in "abc"])
"""
FINISHED_WORK = Path(".cache/lora-tta")


class Repository:
    """A repository with one quick stage, which has run with the seeds 0 and 1."""

    def __init__(self, folder: Path, of_git: Path | None = None):
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "stage.py").write_text(STAGE)
        shutil.copy(clip_results.__file__, folder)
        for name in ("params.yaml", ".gitignore", ".dvcignore"):
            shutil.copy(REPOSITORY / name, folder)
        stage = {
            "cmd": f"{warm_python()} stage.py",
            "deps": ["stage.py"],
            "params": ["generation"],
            "outs": ["outputs/adapt"],
        }
        YAML().dump({"stages": {"adapt": stage}}, folder / "dvc.yaml")
        self.git("init", "--quiet", str(of_git or folder))
        self.dvc("init", "--quiet", *(["--subdir"] if of_git else []))
        self.dvc("config", "core.autostage", "true")
        for seed in (0, 1):
            self.set_seed(seed)
            self.dvc("repro")
            self.commit(f"seed {seed}")

    def git(self, *arguments: str) -> str:
        return run_in(self.folder, "git", *arguments)

    def dvc(self, *arguments: str) -> str:
        return run_in(self.folder, *DVC, *arguments)

    def commit(self, message: str) -> None:
        self.git("add", ".")
        self.git("commit", "--quiet", "-m", message)

    def set_seed(self, seed: int) -> None:
        path = self.folder / "params.yaml"
        values = YAML(typ="safe").load(path)
        values["generation"]["seed"] = seed
        YAML().dump(values, path)
        # Of a size of its own: in an index that DVC has written, Git does not always see that a file of the
        # same size was changed within the same second.
        with path.open("a") as file:
            file.write("#" * seed)

    def begun(self) -> subprocess.Popen:
        """A ``dvc repro`` that has begun its stage, and goes on when ``wait`` is removed."""
        (self.folder / FINISHED_WORK / "wait").touch()
        before = set(self.finished_work())
        process = subprocess.Popen(
            [*COLD_DVC, "repro"],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while set(self.finished_work()) == before:
            assert process.poll() is None
            time.sleep(0.1)
        return process

    def go_on(self) -> None:
        (self.folder / FINISHED_WORK / "wait").unlink()

    def finished_work(self) -> list[str]:
        return sorted(path.name for path in (self.folder / FINISHED_WORK).glob("seed*"))


@pytest.fixture
def gain(monkeypatch, capsys):
    """The gain of PSNR that ``lora-tta compare`` prints for two revisions of a repository."""

    def compare(folder: Path, *revisions: str) -> float:
        monkeypatch.chdir(folder)
        assert main(["compare", *revisions]) == 0
        (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("PSNR"))
        return float(row.split()[5])

    return compare


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Repository:
    return Repository(tmp_path_factory.mktemp("repository") / "of mine")


@pytest.mark.slow(15)
def test_a_subfolder_of_a_larger_repository_is_a_repository_of_its_own(tmp_path, gain):
    repository = Repository(tmp_path / "part" / "videos", of_git=tmp_path)
    assert gain(repository.folder, "HEAD~1", "HEAD") == 1
    assert repository.finished_work() == ["seed 0", "seed 1"]
    assert "up to date" in repository.dvc("status")
    assert repository.git("status", "--porcelain") == ""


@pytest.mark.slow(10)
def test_a_worktree_of_git_shares_what_dvc_has_if_it_names_the_cache(repository, tmp_path, gain):
    worktree = tmp_path / "other"
    repository.git("worktree", "add", "--quiet", "--detach", str(worktree), "HEAD")
    cache = repository.folder / ".dvc" / "cache"
    run_in(worktree, *DVC, "config", "--local", "cache.dir", str(cache))
    run_in(worktree, *DVC, "checkout")
    assert "up to date" in run_in(worktree, *DVC, "status")
    assert gain(worktree, "HEAD~1", "HEAD") == 1
    # Its runs and its finished work are its own.
    run_in(worktree, *DVC, "repro", "--force")
    assert (worktree / FINISHED_WORK / "seed 1").exists()
    assert run_in(worktree, "git", "status", "--porcelain") == ""


@pytest.mark.slow(10)
def test_a_second_repro_is_refused_while_one_works_and_the_first_is_whole(repository):
    repository.set_seed(2)
    first = repository.begun()
    second = subprocess.run(
        [*COLD_DVC, "repro"], cwd=repository.folder, capture_output=True, text=True, check=False
    )
    repository.go_on()
    assert second.returncode
    assert "is busy, it is being blocked by" in second.stderr
    assert first.wait(60) == 0
    assert "up to date" in repository.dvc("status")


@pytest.mark.slow(10)
@pytest.mark.parametrize("whole_tree", [True, False], ids=["with its stage", "alone"])
def test_a_repro_that_was_killed_leaves_no_lock_that_holds(repository, whole_tree):
    repository.set_seed(3 + whole_tree)
    killed = repository.begun()
    (os.killpg if whole_tree else os.kill)(killed.pid, signal.SIGKILL)
    killed.wait()
    repository.go_on()
    repository.dvc("repro")
    assert "up to date" in repository.dvc("status")
    assert (repository.folder / "outputs/adapt/clips.csv").exists()


@pytest.mark.slow(30)
def test_four_queued_experiments_at_once_share_the_finished_work_of_the_repository(repository, gain):
    repository.git("checkout", "--quiet", "HEAD", ".")
    before = repository.finished_work()
    for seed in range(5, 9):
        name, setting = f"seed-{seed}", f"generation.seed={seed}"
        repository.dvc("exp", "run", "--queue", "--name", name, "--set-param", setting)
    repository.dvc("exp", "run", "--run-all", "--jobs", "4")
    assert repository.finished_work() == [*before, *(f"seed {seed}" for seed in range(5, 9))]
    for seed in range(5, 9):
        assert gain(repository.folder, "HEAD~1", f"seed-{seed}") == seed


@pytest.mark.slow(15)
def test_a_clone_has_all_results_from_a_remote_in_the_protocol_of_s3(tmp_path, monkeypatch, gain):
    reason = "takes a server in the protocol of S3 and DVC's client for it: pip install moto dvc-s3"
    pytest.importorskip("dvc_s3", reason=reason)
    server = pytest.importorskip("moto.server", reason=reason).ThreadedMotoServer(port=0, verbose=False)
    import boto3

    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="results")
        repository = Repository(tmp_path / "here")
        repository.dvc("remote", "add", "--default", "s3", "s3://results/lora-tta")
        repository.dvc("remote", "modify", "s3", "endpointurl", address)
        repository.commit("remote")
        repository.set_seed(2)
        repository.dvc("repro")
        repository.commit("seed 2")
        repository.dvc("push", "--all-commits")
        clone = tmp_path / "clone"
        repository.git("clone", "--quiet", str(repository.folder), str(clone))
        run_in(clone, *DVC, "pull")
        assert (clone / "outputs/adapt/clips.csv").exists()
        # The revision before was never checked out: it comes from the remote.
        assert gain(clone, "HEAD~1", "HEAD") == 1
    finally:
        server.stop()


@pytest.mark.slow(20)
def test_a_search_changes_no_object_in_a_cache_of_links(
    tmp_path, params, moving_frames, empty_database, monkeypatch
):
    outputs = tmp_path / "outputs"
    _, clips = prepare_clips(params, outputs, [moving_frames])
    write_manifest(outputs / "clips", [replace(clip, split="search") for clip in clips])
    (outputs / "encoded/distance.json").write_text('{"lpips": "untrained"}')
    values = params.model_dump(mode="json")
    values["workers"]["processes"] = 1
    stage = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"]["search"]
    stage |= {"deps": ["outputs/encoded"], "params": ["search"]}
    YAML().dump({"stages": {"search": stage}}, tmp_path / "dvc.yaml")
    shutil.copy(empty_database, params.tracking.uri.removeprefix("sqlite:///"))
    monkeypatch.chdir(tmp_path)

    def search(n_trials: int) -> None:
        values["search"]["n_trials"] = n_trials
        YAML().dump(values, tmp_path / "params.yaml")
        assert main(["search"]) == 0
        run_in(tmp_path, *DVC, "commit", "--force", "--quiet")

    def changed() -> list[Path]:
        objects = (path for path in (tmp_path / ".dvc/cache/files/md5").glob("*/*") if path.suffix != ".dir")
        return [
            path
            for path in objects
            if md5(path.read_bytes(), usedforsecurity=False).hexdigest() != path.parent.name + path.name
        ]

    run_in(tmp_path, "git", "init", "--quiet")
    run_in(tmp_path, *DVC, "init", "--quiet")
    table = outputs / "search/trials.csv"
    run_in(tmp_path, *DVC, "config", "cache.type", "symlink")
    search(1)
    assert table.is_symlink()
    search(2)
    run_in(tmp_path, *DVC, "config", "cache.type", "hardlink")
    run_in(tmp_path, *DVC, "checkout", "--relink")
    assert table.stat().st_nlink == 2
    search(3)
    assert not changed()
    assert len(table.read_text().splitlines()) == 4
