"""The choice of one of several continuations of a clip, by a rule that sees no true frame."""

from collections.abc import Sequence

import numpy as np


def medoid(samples: Sequence[np.ndarray]) -> int:
    """The number of the sample with the least squared distance from all the others; of equals, the first.

    Of the samples, it is the one with the least expected squared error if the truth were another draw of the
    same model: minimum Bayes risk (Kumar and Byrne 2004, https://aclanthology.org/N04-1022).

    Args:
        samples: frames of one clip, equal shapes, uint8.
    """
    flat = np.stack([sample.reshape(-1) for sample in samples]).astype(np.float64)
    # The sum of squared distances from all samples is smallest where that from their mean is.
    return int(np.argmin(np.square(flat - flat.mean(axis=0)).sum(axis=1)))
