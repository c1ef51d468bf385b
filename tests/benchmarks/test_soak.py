import pytest
from prepared_clips import write_raw_clip
from ruamel.yaml import YAML


@pytest.mark.slow(10)
def test_each_row_tells_of_a_part_of_the_trials_and_open_files_do_not_grow(
    benchmark_named, params, tmp_path, moving_frames, monkeypatch, capsys
):
    for number in (1, 2):
        path = tmp_path / "raw" / "Sliding" / f"v_Sliding_g{number:02d}_c01.avi"
        write_raw_clip(path, moving_frames[::-1] if number == 2 else moving_frames)
    values = params.model_dump(mode="json")
    values["data"]["root"] = "raw"
    # Those of a repository are below the folder in which the study is made.
    values["cache"]["path"], values["tracking"]["uri"] = "cache", "sqlite:///mlflow.db"
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["soak", "--trials", "8"])
    benchmark_named("soak").main()
    rows = [
        line.split() for line in capsys.readouterr().out.splitlines() if line.endswith(tuple("0123456789"))
    ]
    rows = [row for row in rows if row[0].count("-") == 1 and row[0][0].isdigit()]
    assert [row[0] for row in rows] == [f"{number}-{number}" for number in range(8)]
    assert int(rows[-1][4]) <= int(rows[1][4])
