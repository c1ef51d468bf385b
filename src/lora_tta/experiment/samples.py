"""The outcome of a clip that was continued several times."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lora_tta.config import GenerationParams
from lora_tta.generation.choice import medoid
from lora_tta.records.outcome import ClipOutcome
from lora_tta.records.results import chosen_sample, mean_over_samples


def of_samples(outcomes: Sequence[ClipOutcome], params: GenerationParams) -> ClipOutcome:
    """The mean over the samples with the first one's files, or the sample that ``sample_choice`` chooses.

    The choice sees the generated frames of the samples and nothing else.
    """
    results = [outcome.result for outcome in outcomes]
    if params.sample_choice == "mean" or len(outcomes) == 1:
        return replace(outcomes[0], result=mean_over_samples(results))
    known = outcomes[0].clip.conditioning_frames
    index = medoid([np.load(outcome.frames_file)[known:] for outcome in outcomes])
    return replace(outcomes[index], result=chosen_sample(results, index))
