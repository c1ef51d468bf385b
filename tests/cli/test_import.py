import subprocess

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


def test_ucf101_and_captioned_collections_are_brought_in_by_one_command(workspace, tmp_path_factory, capsys):
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["dvc", "init", "-q"], check=True)
    source = make_ucf_folder(tmp_path_factory.mktemp("source"), {"Archery": 1})
    assert main(["import", str(source)]) == 0
    assert "1 clips imported, 0 were there, 0 removed; 1 classes, 0 lists" in capsys.readouterr().out
    table = tmp_path_factory.mktemp("table") / "table.csv"
    table.write_text("path,caption\nArchery/v_Archery_g01_c01.avi,an arrow flies\n")
    assert main(["import", str(source), "--captions", str(table)]) == 0
    assert "0 videos imported, 1 were there, 0 removed; 1 captions" in capsys.readouterr().out
    assert (workspace / "data" / "Archery" / "v_Archery_g01_c01.txt").read_text() == "an arrow flies\n"
    assert (workspace / "data.dvc").exists()
    table.write_text("path,caption\n../x.mp4,a\n")
    assert main(["import", str(source), "--captions", str(table)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
