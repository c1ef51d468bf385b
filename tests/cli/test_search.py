"""How many workers `lora-tta search` starts, and where."""

import pytest

from lora_tta.cli.main import main
from lora_tta.stages import search
from lora_tta.stages.paths import DISTANCE


@pytest.fixture
def started(workspace, monkeypatch):
    """What the command starts, instead of starting it: the place and the number of workers."""
    begun = []
    DISTANCE.parent.mkdir(parents=True)
    DISTANCE.write_text('{"lpips": "untrained"}')
    monkeypatch.setattr(search, "read_manifest", lambda folder, split: [split])
    monkeypatch.setattr(search, "run_worker_here", lambda *_: begun.append(("here", 1)))
    monkeypatch.setattr(search, "run_local_workers", lambda *given: begun.append(("processes", given[-1])))
    monkeypatch.setattr(search, "run_slurm_workers", lambda *given: begun.append(("jobs", given[-2])))
    monkeypatch.setattr(search, "_conclude", lambda *_: None)
    monkeypatch.setattr(search, "call_in_process", lambda *_: None)
    # A machine on which four may work, however many are asked for.
    monkeypatch.setattr(search, "num_processes", lambda asked, *_: 4 if asked == "auto" else asked)
    return begun


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ("processes", 4)),
        (["--workers", "3"], ("processes", 3)),
        (["--workers", "1"], ("here", 1)),
        (["--workers", "8", "--cluster", "slurm"], ("jobs", 8)),
    ],
)
def test_workers_are_as_many_as_asked_for_or_as_this_machine_has_room_for(started, arguments, expected):
    assert main(["search", *arguments]) == 0
    assert started == [expected]


def test_for_a_cluster_this_machine_is_not_counted(started, capsys):
    assert main(["search", "--cluster", "slurm"]) == 2
    message = capsys.readouterr().err
    assert "--workers NUMBER_OF_JOBS" in message
    assert message.count("\n") == 1
    assert not started


def test_a_number_in_the_settings_counts_for_a_cluster_too(started):
    assert main(["params", "workers.processes=6"]) == 0
    assert main(["search", "--cluster", "slurm"]) == 0
    assert started == [("jobs", 6)]


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "many"])
def test_a_number_of_workers_below_one_is_refused(started, capsys, number):
    with pytest.raises(SystemExit):
        main(["search", "--workers", number])
    assert f"argument --workers: {number} is not a whole number of 1 or more" in capsys.readouterr().err
    assert started == []
