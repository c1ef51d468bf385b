"""The paired comparison of two arms, metric by metric."""

from collections.abc import Sequence

import numpy as np

from lora_tta.evaluation.statistics import PairedComparison, paired_comparison
from lora_tta.records.metric_table import metric
from lora_tta.records.results import ClipResult, metric_names, pair_results


def compare(
    baseline: Sequence[ClipResult], adapted: Sequence[ClipResult], samples: int, seed: int
) -> dict[str, PairedComparison]:
    """Paired comparison of every metric.

    Args:
        baseline: results without adaptation.
        adapted: results of the same clips with adaptation, in any order.
        samples: number of bootstrap resamples.
        seed: of the resampling.

    Raises:
        UserError: as :func:`~lora_tta.records.results.pair_results`; LPIPS and its untrained stand-in are
            never compared.
    """
    pairs = pair_results(baseline, adapted)
    return {
        name: paired_comparison(
            np.array([before.by_sample(name) for before, _ in pairs]),
            np.array([after.by_sample(name) for _, after in pairs]),
            metric(name).direction,
            samples,
            seed,
        )
        for name in metric_names(baseline)
    }
