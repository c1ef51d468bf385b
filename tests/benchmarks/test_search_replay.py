"""Searches replayed from a table of scores."""

import itertools

import pandas as pd
import pytest


@pytest.fixture
def replaying(benchmark_named):
    return benchmark_named("search_replay")


@pytest.fixture
def table(replaying) -> pd.DataFrame:
    """Four clips on which more of everything is better, at both numbers of sampling steps."""
    points = [replaying.BASELINE, *itertools.product(*replaying.SPACE.values())]
    rows = [
        (f"clip {number}", *point, steps, 15 + number + sum(point) / 100 + point[1])
        for number, point, steps in itertools.product(range(4), points, (8, 4))
    ]
    return pd.DataFrame(rows, columns=["clip", *replaying.SPACE, "num_inference_steps", "psnr"])


def test_work_is_counted_once_and_trajectories_are_gone_on_with(replaying, table):
    scores = {
        (row.clip, (row.rank, row.learning_rate, row.num_steps), row.num_inference_steps): row.psnr
        for row in table.itertuples(index=False)
    }
    work = replaying.Work(scores)
    work.score("clip 0", (8, 1e-4, 50), 8)
    assert (work.steps, len(work.generated)) == (50, 2)  # the baseline's too
    work.score("clip 0", (8, 1e-4, 50), 8)
    work.score("clip 0", (8, 1e-4, 100), 8)
    work.score("clip 0", (8, 1e-4, 20), 8)
    assert (work.steps, len(work.generated)) == (100, 4)
    work.score("clip 0", (8, 1e-4, 20), 4)
    assert (work.steps, len(work.generated)) == (100, 6)
    costs = replaying.Costs(step=1.0, generation=10.0, decoding=2.0, sampling_steps=8)
    assert costs.of(work) == 100 + 4 * 10 + 2 * (2 + 8 / 2)
    assert costs.of_grid(points=18, clips=4) == 4 * (6 * 170 + 19 * 10)


def test_a_screening_finds_the_grids_best_point_at_less_cost(replaying, table, capsys, monkeypatch):
    shown = ("search", "screening, all points")
    monkeypatch.setattr(replaying, "SEARCHES", {name: replaying.SEARCHES[name] for name in shown})
    costs = replaying.Costs(step=0.25, generation=10.9, decoding=0.4, sampling_steps=8)
    found = replaying.replay(table, costs, seeds=1).set_index("search")
    assert "best rank 32, learning_rate 0.0002, num_steps 100" in capsys.readouterr().out
    assert found["the grid's best point"]["screening, all points"] == "1 of 1"
    spent = found["GPU s"].astype(float)
    assert spent["screening, all points"] < spent["search"]
