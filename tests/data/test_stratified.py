from collections import Counter
from pathlib import Path

from lora_tta.data.stratified import StratifiedSampler
from lora_tta.data.ucf101 import Source


def sources(**classes: int) -> list[Source]:
    return [
        Source(Path(f"{name}/{number}.avi"), name, f"{name}-{number}")
        for name, count in classes.items()
        for number in range(count)
    ]


def test_classes_differ_by_at_most_one_clip():
    drawn = StratifiedSampler(sources(a=30, b=5, c=9), seed=0).draw(11)
    counts = Counter(source.class_name for source in drawn)
    assert sorted(counts.values()) == [3, 4, 4]
    assert len(set(drawn)) == 11


def test_small_classes_leave_their_share_to_the_others():
    counts = Counter(s.class_name for s in StratifiedSampler(sources(a=1, b=10), seed=0).draw(8))
    assert counts == {"a": 1, "b": 7}


def test_depends_on_the_seed_but_not_on_the_order_of_the_files():
    everything = sources(a=20, b=20)
    drawn = StratifiedSampler(everything, seed=1).draw(6)
    assert drawn == StratifiedSampler(everything[::-1], seed=1).draw(6)
    assert drawn != StratifiedSampler(everything, seed=2).draw(6)


def test_a_larger_sample_contains_the_smaller_one():
    everything = sources(a=20, b=20, c=20)
    assert StratifiedSampler(everything, seed=3).draw(12)[:7] == StratifiedSampler(everything, seed=3).draw(7)


def test_a_rejected_source_is_replaced_by_one_of_its_class():
    sampler = StratifiedSampler(sources(a=5, b=5, c=5), seed=0)
    first = sampler.draw(6)
    sampler.reject(first[0])
    (replacement,) = sampler.draw(1)
    assert replacement.class_name == first[0].class_name
    assert replacement not in first


def test_an_exhausted_class_is_replaced_by_another():
    sampler = StratifiedSampler(sources(a=1, b=5), seed=0)
    sampler.reject(next(source for source in sampler.draw(2) if source.class_name == "a"))
    assert [source.class_name for source in sampler.draw(1)] == ["b"]


def test_asking_for_more_than_there_are_gives_all():
    assert len(StratifiedSampler(sources(a=2, b=3), seed=0).draw(100)) == 5
