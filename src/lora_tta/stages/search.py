"""Stage ``search``: an Optuna study over LoRA rank, learning rate and number of steps."""

import json
import sys
from collections.abc import Sequence

from lora_tta.config import Params
from lora_tta.errors import UserError, report_user_errors
from lora_tta.experiment.pool import call_in_process
from lora_tta.records.clips import Clip, read_manifest
from lora_tta.records.search_folders import SearchFolders
from lora_tta.search.launch import WORKER_MODULE, run_local_workers, run_slurm_workers
from lora_tta.stages.paths import BEST, CLIPS, ENCODED, FIGURES, SLURM_LOGS, STUDY, TRIALS
from lora_tta.stages.stage_params import load_stage_params


def main(processes: int | None = None, cluster: str | None = None) -> None:
    """Bring the study to ``search.n_trials``; write ``trials.csv`` and ``best.json``.

    Args:
        processes: number of workers; ``workers.processes`` if None.
        cluster: ``slurm`` to submit the workers as jobs.
    """
    params = load_stage_params()
    processes = processes or params.workers.processes
    clips = read_manifest(CLIPS)[: params.search.num_clips]
    folders = SearchFolders(CLIPS.absolute(), ENCODED.absolute(), STUDY.absolute())
    if cluster == "slurm":
        run_slurm_workers(params, folders, clips, processes, SLURM_LOGS)
    else:
        run_local_workers(params, folders, clips, processes)
    if processes == 1 or cluster:
        _conclude(params, clips)
    else:
        call_in_process(WORKER_MODULE, _conclude, params, clips)


def _conclude(params: Params, clips: Sequence[Clip]) -> None:
    """Write what the study has found, in a process that has imported all of this for its work on a trial."""
    from lora_tta.experiment.runner import ClipRunner
    from lora_tta.files import write_csv, write_text
    from lora_tta.search.study import (
        MEANS_ATTRIBUTE,
        best_trial,
        finished_trials,
        open_study,
        trial_key,
        trial_table,
    )
    from lora_tta.search.study_figures import study_figures
    from lora_tta.tracking.mlflow_runs import log_study, open_experiment

    runner = ClipRunner(params, CLIPS, ENCODED)
    study = open_study(STUDY, params, runner.setting(clips))
    trials = finished_trials(study, params.search.num_finished)
    if len(trials) < params.search.num_finished:
        raise UserError(
            f"the workers ended after {len(trials)} of {params.search.num_finished} trials: see their output "
            "and run again; nothing that was finished is lost"
        )
    best = best_trial(study, params.search.num_finished)
    write_csv(TRIALS, trial_table(trials))
    objectives = {
        objective.metric: value
        for objective, value in zip(params.search.objectives, best.values, strict=True)
    }
    summary = {
        "study": study.study_name,
        "trials": len(trials),
        "trial": best.number,
        "settings": best.params,
        "objectives": objectives,
    }
    write_text(BEST, json.dumps(summary, indent=1) + "\n")
    figures = study_figures(study, list(objectives))
    for name, figure in figures.items():
        write_text(FIGURES / f"{name}.json", figure.to_json())
    log_study(
        open_experiment(params.tracking),
        study.study_name,
        trial_key(study, best.number),
        best.params | best.user_attrs[MEANS_ATTRIBUTE],
        trial_table(trials),
        figures,
    )
    print(f"best of {len(trials)} trials: {best.params}, {objectives}")


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
