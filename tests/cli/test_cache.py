import pytest

from lora_tta.cache.store import ContentCache
from lora_tta.cli.main import main
from lora_tta.config import load_params


@pytest.fixture
def cache(workspace) -> ContentCache:
    """The store that the settings name, with an adapter of 2 MB."""
    params = load_params().cache
    cache = ContentCache(params.path, params.max_bytes)
    cache.fetch("adapter", {"a": 1}, lambda folder: (folder / "weights").write_bytes(bytes(2_000_000)))
    return cache


def listed(capsys) -> dict[str, str]:
    """The lines that the command prints, by their first words."""
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}


def test_cache_lists_kinds_with_their_sizes(cache, capsys):
    assert main(["cache"]) == 0
    lines = listed(capsys)
    assert lines["adapter"] == "1 entries 2.0 MB"
    assert lines["leftovers"] == "0 entries 0.0 MB"


def test_cache_shows_what_is_leased_and_removes_it_only_afterwards(cache, capsys):
    with cache.leasing():
        cache.find("adapter", {"a": 1})
        assert main(["cache", "--max-gigabytes", "0"]) == 0
        lines = listed(capsys)
        assert lines["removed"] == "0 entries"
        assert lines["adapter"] == "1 entries 2.0 MB, 1 leased"
    assert main(["cache", "--max-gigabytes", "0"]) == 0
    lines = listed(capsys)
    assert lines["removed"] == "1 entries"
    assert "adapter" not in lines
    assert cache.find("adapter", {"a": 1}) is None


def test_cache_shows_what_killed_processes_left_and_removes_it_on_request(cache, capsys):
    left = cache.root / "partial" / "of a killed process"
    left.mkdir(parents=True)
    (left / "weights").write_bytes(bytes(3_000_000))
    assert main(["cache"]) == 0
    assert listed(capsys)["leftovers"] == "1 entries 3.0 MB"
    assert left.exists()
    assert main(["cache", "--max-gigabytes", "1"]) == 0
    lines = listed(capsys)
    assert lines["leftovers"] == "0 entries 0.0 MB"
    assert lines["adapter"] == "1 entries 2.0 MB"
    assert not left.exists()
