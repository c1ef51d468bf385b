from footage import make_ucf_folder

from lora_tta.cli.main import main


def test_a_data_folder_outside_of_the_repository_is_refused_before_anything_is_copied(
    workspace, tmp_path_factory, capsys
):
    outside = tmp_path_factory.mktemp("outside") / "data"
    source = make_ucf_folder(tmp_path_factory.mktemp("source"), {"Archery": 1})
    assert main(["params", f"--data-root={outside}"]) == 0
    capsys.readouterr()
    assert main(["import-ucf101", str(source)]) == 2
    error = capsys.readouterr().err
    assert "outside of the repository" in error
    assert error.count("\n") == 1
    assert not outside.exists()
