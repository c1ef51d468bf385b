"""Stage ``search``: an Optuna study over LoRA rank, learning rate and number of steps."""

import json
import sys

from lora_tta.config import load_params
from lora_tta.data.clips import read_manifest
from lora_tta.errors import report_user_errors
from lora_tta.evaluation.files import write_csv, write_text
from lora_tta.experiment.runner import ClipRunner
from lora_tta.search.study import best_trial, finished_trials, open_study, trial_table
from lora_tta.search.trials import run_trials
from lora_tta.stages.paths import BEST, CLIPS, ENCODED, STUDY, TRIALS


def main() -> None:
    """Bring the study to ``search.n_trials``; write ``trials.csv`` and ``best.json``."""
    params = load_params()
    clips = read_manifest(CLIPS)[: params.search.num_clips]
    runner = ClipRunner(params, CLIPS, ENCODED, snapshot_steps=params.search.space.num_steps)
    study = open_study(STUDY, params.search, runner.setting(clips))
    run_trials(study, params, runner, clips)

    trials = finished_trials(study, params.search.n_trials)
    best = best_trial(trials, params.search.direction)
    write_csv(TRIALS, trial_table(trials))
    summary = {
        "study": study.study_name,
        "trials": len(trials),
        "trial": best.number,
        "settings": best.params,
        params.search.objective: best.value,
    }
    write_text(BEST, json.dumps(summary, indent=1) + "\n")
    print(f"best of {len(trials)} trials: {best.params}, {params.search.objective} {best.value:.4f}")


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
