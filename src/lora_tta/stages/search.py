"""Stage ``search``: an Optuna study over settings of the adaptation."""

import json
import sys
from collections.abc import Sequence

from lora_tta.cache.lock_check import check_locks
from lora_tta.config import Params
from lora_tta.errors import UserError, report_user_errors
from lora_tta.experiment.processes import call_in_process, num_processes
from lora_tta.records.clips import MANIFEST_NAME, Clip, read_manifest
from lora_tta.records.metric_table import COSTS
from lora_tta.records.point import describe
from lora_tta.records.search_folders import SearchFolders
from lora_tta.search.launch import WORKER_MODULE, run_local_workers, run_slurm_workers, run_worker_here
from lora_tta.stages.baseline import log_missing
from lora_tta.stages.paths import BEST, CLIPS, ENCODED, FIGURES, SLURM_LOGS, STUDY, TRIALS
from lora_tta.stages.stage_params import load_measuring_params
from lora_tta.tracking.reachable import check_store


def main(processes: int | None = None, cluster: str | None = None) -> None:
    """Bring the study to ``search.n_trials``; write its export, ``trials.csv``, ``best.json`` and figures.

    Trials run on clips for the search alone, so that no test clip has a part in the choice of a point.

    Args:
        processes: number of workers; ``workers.processes`` if None.
        cluster: ``slurm`` to submit the workers as jobs.

    Raises:
        UserError: see :func:`run_local_workers` and :func:`run_slurm_workers`; or a cluster is named without
            the number of jobs; or no clip is for the search.
    """
    params = load_measuring_params()
    asked = processes or params.workers.processes
    clips = read_manifest(CLIPS, "search")[: params.search.num_clips]
    if not clips:
        raise UserError(
            "no clip is for the search, since all clips show the same footage (the column group of "
            f"{CLIPS / MANIFEST_NAME}): add other videos to data.root"
        )
    check_locks(params.cache.path, several_machines=cluster is not None)
    check_store(params.tracking.uri)
    folders = SearchFolders(CLIPS.absolute(), ENCODED.absolute(), STUDY.absolute())
    if cluster == "slurm":
        if asked == "auto":
            raise UserError(
                "workers.processes is auto, which counts this machine: add --workers NUMBER_OF_JOBS"
            )
        run_slurm_workers(params, folders, clips, asked, SLURM_LOGS)
    elif asked == 1:
        run_worker_here(params, folders, clips)
    else:
        run_local_workers(params, folders, clips, num_processes(asked, params.model, WORKER_MODULE))
    if asked == 1 or cluster:
        _conclude(params, clips)
    else:
        call_in_process(WORKER_MODULE, _conclude, params, clips)


def _conclude(params: Params, clips: Sequence[Clip]) -> None:
    """Write the findings of the study, in a process that has imported all of this for its work on a trial."""
    import optuna
    from optuna.trial import TrialState

    from lora_tta.experiment.runner import ClipRunner
    from lora_tta.files import write_csv, write_text
    from lora_tta.search.samplers import RANDOM_START
    from lora_tta.search.study import (
        MEANS_ATTRIBUTE,
        best_trial,
        failure_of,
        finished_trials,
        is_feasible,
        open_study,
        trial_key,
        trial_table,
        values_of,
    )
    from lora_tta.search.study_export import export_study
    from lora_tta.search.study_figures import study_figures
    from lora_tta.search.tracked_trials import log_missing_trials
    from lora_tta.tracking.mlflow_runs import log_study, open_experiment, show_columns
    from lora_tta.tracking.store import store_errors

    # 1. The trials, all of which have to be there.
    num_trials = params.search.num_trials
    runner = ClipRunner(params, CLIPS, ENCODED)
    study = open_study(STUDY, params, runner.study_identity(clips))
    trials = finished_trials(study, num_trials)
    if len(trials) < num_trials:
        raise UserError(
            f"the workers ended after {len(trials)} of {num_trials} trials: see their output and run again; "
            "nothing that was finished is lost"
        )
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    for trial in failed:
        print(f"trial {trial.number} failed ({describe(trial.params)}): {failure_of(trial)}")

    # 2. The files that DVC tracks.
    best = best_trial(study, num_trials)
    metrics = [objective.metric for objective in params.search.objectives]
    summary = {
        "study": study.study_name,
        "trials": len(trials),
        "failed": len(failed),
        "random_start": RANDOM_START.get(params.search.sampler, 0),
        "trial": best.number,
        "point": best.params,
        "objectives": dict(zip(metrics, values_of(best), strict=True)),
    }
    sentence = f"best of {len(trials)} trials: {describe(best.params)}, {summary['objectives']}"
    if params.search.constraints:
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        summary["feasible"] = sum(is_feasible(trial) for trial in complete)
        if not summary["feasible"]:
            sentence += "; no trial was feasible: each broke one of search.constraints, the best one too"
    chosen = {item.metric for item in (*params.search.objectives, *params.search.constraints)}
    shown = optuna.create_study(directions=study.directions)
    shown.add_trials(trials)
    figures = study_figures(shown, metrics)
    export_study(study, trials, STUDY, chosen)
    write_csv(TRIALS, trial_table(trials, chosen))
    for name, figure in figures.items():
        write_text(FIGURES / f"{name}.json", figure.to_json())
    write_text(BEST, json.dumps(summary, indent=1) + "\n")

    # 3. MLflow's runs: the files above are whole without them.
    print(sentence)
    try:
        store = open_experiment(params.tracking, params.cache.path)
        with store_errors(store.uri):
            if made := log_missing_trials(store, study, trials, params, runner, clips):
                print(f"{made} trials that MLflow did not have were logged again")
            if log_missing(store, params, runner):
                print("the baseline, which MLflow did not have, was logged again")
            log_study(
                store,
                study.study_name,
                trial_key(study, best.number),
                best.params | best.user_attrs[MEANS_ATTRIBUTE],
                sentence,
                trial_table(trials, [cost.name for cost in COSTS]),
                figures,
            )
            show_columns(store, params.search, params.evaluation.primary)
    except UserError as error:
        print(f"MLflow does not show the end of this search, `lora-tta search` brings it up to date: {error}")


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
