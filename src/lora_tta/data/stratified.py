"""Which clips of a data set are taken: spread evenly over its classes, in a seeded order."""

import random
from collections import defaultdict
from collections.abc import Iterable

from lora_tta.data.ucf101 import Source


class StratifiedSampler:
    """Draws sources class by class, so that no class is ahead of another by more than one clip.

    Classes take turns in a seeded order, and so do the sources of a class. A drawn source that turns out
    useless is handed back with :meth:`reject`: its class then is behind and comes next, so the replacement
    is of the same class while it has any left. The draws depend on the sources, the seed and the rejections
    alone, not on the order of the sources or on how many are drawn at a time.
    """

    def __init__(self, sources: Iterable[Source], seed: int):
        by_class: dict[str, list[Source]] = defaultdict(list)
        for source in sorted(sources, key=lambda source: source.clip_id):
            by_class[source.class_name].append(source)
        generator = random.Random(seed)
        self._remaining: dict[str, list[Source]] = {}
        for name in generator.sample(sorted(by_class), len(by_class)):
            self._remaining[name] = generator.sample(by_class[name], len(by_class[name]))
        self._taken = dict.fromkeys(self._remaining, 0)

    def draw(self, num_clips: int) -> list[Source]:
        """The next ``num_clips`` sources; fewer if there are no more."""
        drawn = []
        while len(drawn) < num_clips:
            open_classes = [name for name, sources in self._remaining.items() if sources]
            if not open_classes:
                break
            name = min(open_classes, key=self._taken.__getitem__)
            drawn.append(self._remaining[name].pop(0))
            self._taken[name] += 1
        return drawn

    def reject(self, source: Source) -> None:
        """Tell that a drawn source does not count."""
        self._taken[source.class_name] -= 1
