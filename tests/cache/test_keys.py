import pytest

from lora_tta.cache.keys import code_version, derive_seed, digest, folder_sha256


def test_a_digest_is_of_the_content_not_of_its_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_a_folders_hash_covers_names_and_contents(tmp_path):
    hashes = set()
    for name, content in (("a", "x"), ("a", "y"), ("b", "x")):
        folder = tmp_path / f"{name}{content}"
        folder.mkdir()
        (folder / name).write_text(content)
        hashes.add(folder_sha256(folder))
    assert len(hashes) == 3


def test_seeds_differ_by_name_and_by_seed_and_fit_31_bits():
    seeds = {derive_seed(seed, name) for seed in range(3) for name in ("clip_a", "clip_b")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(0, "clip_a") == derive_seed(0, "clip_a")


@pytest.mark.parametrize("name", ["flash-attn-4", "quack-kernels"])
def test_an_optional_library_counts_where_it_is_installed(name, tmp_path, monkeypatch):
    compute = code_version.__wrapped__
    hashes = [compute()]
    for release in ("4.0.0", "4.0.1"):
        folder = tmp_path / release
        metadata = folder / f"{name.replace('-', '_')}-{release}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")
        monkeypatch.syspath_prepend(folder)
        hashes.append(compute())
    assert len(set(hashes)) == 3
