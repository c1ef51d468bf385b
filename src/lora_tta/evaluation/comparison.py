"""The paired comparison of two arms, metric by metric, and the distance of whole arms from the truth."""

from collections.abc import Mapping, Sequence

import numpy as np

from lora_tta.evaluation.statistics import PairedComparison, paired_comparison
from lora_tta.records.features import MIN_CLIPS
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


def frechet_video_distances(arms: Mapping[str, Sequence[ClipResult]]) -> dict[str, float]:
    """FVD of each arm from the true videos of its clips; empty where it was not measured of enough clips."""
    features = {
        name: [result.features for result in results if result.features is not None]
        for name, results in arms.items()
    }
    if any(len(found) < max(MIN_CLIPS, len(arms[name])) for name, found in features.items()):
        return {}
    # Imported where it is measured: without FVD, the report needs no torch.
    from lora_tta.evaluation.video_features import frechet_distance

    distances = {}
    for name, found in features.items():
        generated, target = np.stack(found, axis=1)
        distances[name] = frechet_distance(generated, target)
    return distances
