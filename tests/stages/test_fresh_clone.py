"""A clone before anything has run: the remote in the repository holds all that ``dvc.lock`` names."""

from commands import Workspace


def test_dvc_pull_alone_brings_data_model_and_every_output(tmp_path):
    clone = Workspace(tmp_path, with_lock=True)
    clone.run("dvc", "pull")
    for name in ("data", "models/embedded/model_index.json", "outputs/evaluate/report.html"):
        assert (tmp_path / name).exists()
    assert list((tmp_path / "outputs/adapt/adapters").glob("*/adapter_model.safetensors"))
    assert clone.run("git", "status", "--porcelain") == ""
