import pytest


@pytest.fixture
def benchmark(benchmark_named):
    return benchmark_named("demo_breakdown")


def test_what_no_stage_took_is_dvcs(benchmark):
    processes = [
        {"stage": "dvc", "main": False, "slices": [["imports", 0.0, 1.0, 1.0], ["other", 1.0, 12.0, 0.5]]},
        {
            "stage": "encode",
            "main": True,
            "slices": [["imports", 2.0, 5.0, 3.0], ["encoding", 5.0, 11.0, 6.0]],
        },
    ]
    rows = benchmark.break_down(processes, 0.0, 12.0)
    assert (rows["encode"]["wall"], rows["encode"]["CPU"], rows["encode"]["encoding"]) == (9.0, 9.0, 6.0)
    assert (rows["DVC"]["wall"], rows["DVC"]["CPU"]) == (3.0, 1.5)
    assert rows["total"]["wall"] == 12.0
