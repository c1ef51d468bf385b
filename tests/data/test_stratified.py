from collections import Counter
from pathlib import Path

from lora_tta.data.stratified import StratifiedSampler, sample_stratified
from lora_tta.data.ucf101 import Source


def sources(**classes: int) -> list[Source]:
    return [
        Source(Path(f"{name}/{number}.avi"), name, f"{name}-{number}")
        for name, count in classes.items()
        for number in range(count)
    ]


def test_classes_differ_by_at_most_one_clip():
    drawn = sample_stratified(sources(a=30, b=5, c=9), 11, seed=0)
    counts = Counter(source.class_name for source in drawn)
    assert sorted(counts.values()) == [3, 4, 4]
    assert len(set(drawn)) == 11


def test_small_classes_leave_their_share_to_the_others():
    counts = Counter(s.class_name for s in sample_stratified(sources(a=1, b=10), 8, seed=0))
    assert counts == {"a": 1, "b": 7}


def test_depends_on_the_seed_but_not_on_the_order_of_the_files():
    everything = sources(a=20, b=20)
    drawn = sample_stratified(everything, 6, seed=1)
    assert drawn == sample_stratified(everything[::-1], 6, seed=1)
    assert drawn != sample_stratified(everything, 6, seed=2)


def test_a_larger_sample_contains_the_smaller_one():
    everything = sources(a=20, b=20, c=20)
    assert sample_stratified(everything, 12, seed=3)[:7] == sample_stratified(everything, 7, seed=3)


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
    assert len(sample_stratified(sources(a=2, b=3), 100, seed=0)) == 5
