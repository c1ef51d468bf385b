"""What screening, samplers and pruners save, replayed from a recorded table of scores.

`record_scores.py` has run every point of the published space on every clip. A replay looks values up there
and counts the model's work that a search would have done: steps of trajectories that are not in its cache
yet, and generations. Samplers, pruners and the order of trials are the platform's own code; its models,
caches and processes are not in it. One replay takes seconds, so each search is replayed with several seeds.

GPU seconds are computed: the counts times the costs of the full-size model. A generation with fewer sampling
steps costs as much less, but for its decoding.

    python benchmarks/search_replay.py scores.csv
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from search_saving import SPACE

from lora_tta.cache.keys import derive_seed
from lora_tta.config import Params, load_params
from lora_tta.evaluation.statistics import paired_comparison
from lora_tta.records.point import describe
from lora_tta.search.samplers import build_pruner, build_sampler, suggest_point

BASELINE = (0, 0.0, 0)
# By name: settings of the search, and the screening.
SEARCHES: dict[str, dict] = {
    "search": {"sampler": "grid"},
    "search, Wilcoxon pruner": {"sampler": "tpe", "pruner": "wilcoxon"},
    "screening, all points": {
        "sampler": "grid",
        "screening": {"num_clips": 4, "num_inference_steps": 4, "finalists": 2},
    },
    "screening, 12 points of tpe": {
        "sampler": "tpe",
        "n_trials": 12,
        "startup_trials": 6,
        "screening": {"num_clips": 6, "num_inference_steps": 4, "finalists": 3},
    },
}


@dataclass
class Work:
    """The model's work of a search: what it has done, and what it cost.

    Attributes:
        scores: by clip, point and number of sampling steps.
        snapshots: numbers of steps at which trajectories were left, by clip, rank and learning rate.
        generated: what was generated.
        steps: steps of adaptation that were taken.
    """

    scores: dict[tuple, float]
    snapshots: dict[tuple, set[int]] = field(default_factory=lambda: defaultdict(lambda: {0}))
    generated: set[tuple] = field(default_factory=set)
    steps: int = 0

    def score(self, clip: str, point: tuple, sampling_steps: int) -> float:
        """Do what it takes to know a score."""
        if point != BASELINE:
            self.score(clip, BASELINE, sampling_steps)
            *settings, num_steps = point
            reached = self.snapshots[clip, *settings]
            self.steps += num_steps - max(steps for steps in reached if steps <= num_steps)
            reached |= {steps for steps in (*SPACE["num_steps"], num_steps) if steps <= num_steps}
        self.generated.add((clip, point, sampling_steps))
        return self.scores[clip, point, sampling_steps]


@dataclass(frozen=True)
class Costs:
    """Seconds of the full-size model, and the sampling steps of a whole generation."""

    step: float
    generation: float
    decoding: float
    sampling_steps: int

    def of(self, work: Work) -> float:
        """GPU seconds."""
        sampling = self.generation - self.decoding
        shares = [steps / self.sampling_steps for _, _, steps in work.generated]
        return work.steps * self.step + sum(self.decoding + share * sampling for share in shares)

    def of_grid(self, points: int, clips: int) -> float:
        """GPU seconds of every point on every clip, which share nothing but the baseline."""
        steps = points // len(SPACE["num_steps"]) * sum(SPACE["num_steps"])
        return clips * (steps * self.step + (points + 1) * self.generation)


def study(
    work: Work, params: Params, clips: list[str], sampling_steps: int, points: list[dict]
) -> list[tuple]:
    """Run a study; its complete trials' points and values, the best first.

    Args:
        work: which it adds to.
        params: of the study.
        clips: of each trial.
        sampling_steps: of each generation.
        points: tried before the sampler has a say, or in place of it if there are as many as trials.
    """
    run = optuna.create_study(direction="maximize", pruner=build_pruner(params.search))
    for point in points:
        run.enqueue_trial(point)
    found = []
    for number in range(params.search.num_trials):
        run.sampler = build_sampler(params.search, derive_seed(params.search.seed, str(number)))
        trial = run.ask()
        point = tuple(suggest_point(trial, params.search.dimensions).values())
        values = []
        for clip in clips:
            values.append(work.score(clip, point, sampling_steps))
            trial.report(values[-1], len(values) - 1)
            if params.search.pruner != "none" and len(values) < len(clips) and trial.should_prune():
                break
        mean = float(np.mean(values))
        if len(values) < len(clips):
            run.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            run.tell(trial, mean)
            found.append((point, mean))
    return sorted(found, key=lambda item: -item[1])


def search(work: Work, params: Params, clips: list[str]) -> tuple:
    """The best point of a search, after a screening if it has one."""
    steps, screening = params.generation.num_inference_steps, params.search.screening
    if screening is None:
        return study(work, params, clips, steps, [])[0][0]
    cheap = screening.num_inference_steps or steps
    ranked = study(work, params, clips[: screening.num_clips], cheap, [])
    finalists = [dict(zip(SPACE, point, strict=True)) for point, _ in ranked[: screening.finalists]]
    confirming = params.search.model_copy(update={"n_trials": len(finalists), "pruner": "none"})
    second = params.model_copy(update={"search": confirming})
    return study(work, second, clips, steps, finalists)[0][0]


def replay(table: pd.DataFrame, costs: Costs, seeds: int) -> pd.DataFrame:
    """A row for each search."""
    # Those with scores of a screening come first.
    cheap = set(table["clip"][table["num_inference_steps"] < costs.sampling_steps])
    clips = sorted(table["clip"].unique(), key=lambda clip: clip not in cheap)
    scores = {
        (row.clip, (row.rank, row.learning_rate, row.num_steps), row.num_inference_steps): row.psnr
        for row in table.itertuples(index=False)
    }
    full = costs.sampling_steps
    points = sorted({point for _, point, steps in scores if steps == full} - {BASELINE})
    means = {point: np.mean([scores[clip, point, full] for clip in clips]) for point in points}
    best = max(means, key=means.__getitem__)
    grid = costs.of_grid(len(points), len(clips))
    rows = []
    for name, settings in SEARCHES.items():
        chosen, spent, steps, generated = [], [], [], []
        for seed in range(seeds):
            work = Work(scores)
            chosen.append(search(work, params_of(settings, seed, costs.sampling_steps), clips))
            spent.append(costs.of(work))
            steps.append(work.steps)
            generated.append(len(work.generated))
        worst = min(chosen, key=means.__getitem__)
        shares = [each / grid for each in spent]
        row = {
            "search": name,
            "adaptation steps": f"{np.mean(steps):.0f}",
            "generations": f"{np.mean(generated):.0f}",
            "GPU s": f"{np.mean(spent):.0f}",
            "share of the grid's": f"{np.mean(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})",
            "the grid's best point": f"{sum(point == best for point in chosen)} of {seeds}",
            "worst choice": describe(dict(zip(SPACE, worst, strict=True))),
        }
        if worst != best:
            both = (np.array([scores[clip, point, full] for clip in clips]) for point in (best, worst))
            compared = paired_comparison(*both, direction="maximize", samples=10_000, seed=0)
            row["its PSNR against the grid's best"] = (
                f"{compared.difference:+.3f} ({compared.interval_low:+.3f} to {compared.interval_high:+.3f})"
            )
        rows.append(row)
    print(
        f"{len(clips)} clips, {len(points)} points; plain grid: {grid:.0f} GPU s, best "
        f"{describe(dict(zip(SPACE, best, strict=True)))} ({means[best]:.3f} dB)\n"
    )
    return pd.DataFrame(rows).fillna("")


def params_of(settings: dict, seed: int, sampling_steps: int) -> Params:
    """Settings of the repository, with the published space, the table's sampling steps and a search's own."""
    values = load_params().model_dump()
    values["generation"]["num_inference_steps"] = sampling_steps
    values["search"] |= {
        "n_trials": 18,
        "space": SPACE,
        "num_clips": None,
        "pruner": "none",
        "startup_trials": None,
        "screening": None,
        "objectives": [{"metric": "psnr", "direction": "maximize"}],
        "constraints": [],
        "seed": seed,
        **settings,
    }
    return Params.model_validate(values)


def main() -> None:
    """Replay the searches and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+", help="of record_scores.py")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--step-seconds", type=float, default=0.25, help="full size: a LoRA step")
    parser.add_argument("--generation-seconds", type=float, default=10.9, help="full size: a generation")
    parser.add_argument("--decoding-seconds", type=float, default=0.4, help="full size: the decoding in it")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = pd.concat([pd.read_csv(path) for path in options.scores])
    costs = Costs(
        options.step_seconds,
        options.generation_seconds,
        options.decoding_seconds,
        int(table["num_inference_steps"].max()),
    )
    print(replay(table, costs, options.seeds).to_markdown(index=False))


if __name__ == "__main__":
    main()
