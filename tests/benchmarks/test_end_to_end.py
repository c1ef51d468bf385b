import pytest


@pytest.fixture
def benchmark(benchmark_named):
    return benchmark_named("end_to_end")


def process(*slices):
    """A worker's main thread: kinds of work with their lengths, one after the other, from second 10."""
    pieces, now = [], 10.0
    for kind, seconds in slices:
        pieces.append([kind, now, now + seconds, seconds, True])
        now += seconds
    return {"stage": "search", "main": False, "slices": pieces}


CLIP = [("adaptation", 3.0), ("other", 0.5), ("generation", 6.0)]


def test_the_start_is_all_that_is_no_model_work_before_the_first_clip_is_done(benchmark):
    first = [("loading", 5.0), ("adaptation", 1.0), ("compiling", 8.0), ("adaptation", 2.0), ("other", 0.5)]
    first += [("generation", 1.0), ("compiling", 4.0), ("generation", 5.0)]
    found = benchmark.worker(process(*first, ("waiting", 0.5), *CLIP, ("other", 2.0)), begin=0.0, end=60.0)
    assert found["clips"] == 2
    # Imports before the process was forked, loading, compiling and the rest.
    assert found["to first clip"] == pytest.approx(10 + 5 + 8 + 0.5 + 4)
    assert found["start by kind"]["imports"] == pytest.approx(10)


def test_the_share_of_model_work_is_that_of_the_time_from_the_first_clip_to_the_last(benchmark):
    found = benchmark.worker(process(*CLIP, ("waiting", 0.5), *CLIP, ("other", 2.0)), begin=0.0, end=60.0)
    assert found["share"] == pytest.approx(9.0 / 10.0)
    assert found["rest by kind"]["waiting"] == pytest.approx(0.5)
    assert found["seconds"] == pytest.approx({"encoding": 0.0, "adaptation": 3.0, "generation": 6.0})


def test_a_process_without_model_work_is_no_worker(benchmark):
    assert benchmark.worker(process(("imports", 3.0), ("MLflow", 1.0)), begin=0.0, end=20.0) is None


def test_the_published_search_is_computed_from_the_seconds_of_a_step_and_a_generation(benchmark):
    worker = {"clips": 3, "share": 0.95, "to first clip": 40.0, "window": [50.0, 52.0]}
    stages = {name: {"workers": [worker]} for name in ("encode", "baseline", "search", "adapt")}
    figures = {"gpus": 4, "stages": stages, "clips a trial": 12, "clips a second": 0.37}
    lines = benchmark.findings(
        figures | {"adaptation": 3.4, "generation": 8.4}, against={"clips a second": 0.1}
    )
    hours = 100 * (6 * (100 * 0.17 + 3 * 8.4) + 8.4) / 3600
    assert any(f"takes {hours:.1f} GPU-hours" in line for line in lines)
    assert any("3.70 times" in line for line in lines)
    assert any("encode: 1.00 s a clip" in line for line in lines)
