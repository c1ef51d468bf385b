"""Stage ``search``: an Optuna study over settings of the adaptation."""

import json
from collections.abc import Sequence

from lora_tta.cache.lock_check import check_locks
from lora_tta.config import Params
from lora_tta.ends import end_process
from lora_tta.errors import UserError, report_user_errors
from lora_tta.experiment.processes import call_in_process, num_processes
from lora_tta.records.clips import MANIFEST_NAME, Clip, read_manifest
from lora_tta.records.metric_table import COSTS
from lora_tta.records.search_folders import SearchFolders
from lora_tta.search.guesses import warm_start
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
    _, left_out = warm_start(params.search)
    for line in left_out:
        print(line)
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
    from lora_tta.files import write_csv, write_text
    from lora_tta.search.findings import concluded, failure_lines, summary_of, table_of
    from lora_tta.search.rounds import first_round, second_round
    from lora_tta.search.study import MEANS_ATTRIBUTE, point_of, trial_key
    from lora_tta.search.study_export import export_study
    from lora_tta.search.study_figures import study_figures
    from lora_tta.search.tracked_trials import log_missing_trials
    from lora_tta.tracking.mlflow_runs import log_study, open_experiment, show_columns
    from lora_tta.tracking.store import store_errors

    # 1. The trials, all of which have to be there.
    search, folders = params.search, SearchFolders(CLIPS, ENCODED, STUDY)
    rounds = [concluded(first_round(params, clips), folders)]
    if confirming := second_round(params, clips, rounds[0].study):
        rounds.append(concluded(confirming, folders))
    for line in failure_lines(rounds):
        print(line)

    # 2. The files that DVC tracks.
    summary, sentence = summary_of(search, rounds)
    chosen = {item.metric for item in (*search.objectives, *search.constraints)}
    figures = [study_figures(each.shown, [item.metric for item in search.objectives]) for each in rounds]
    for each in rounds:
        export_study(each.study, each.trials, STUDY, chosen)
    write_csv(TRIALS, table_of(rounds, chosen))
    for name, figure in figures[0].items():
        write_text(FIGURES / f"{name}.json", figure.to_json())
    write_text(BEST, json.dumps(summary, indent=1) + "\n")

    # 3. MLflow's runs: the files above are whole without them.
    print(sentence)
    try:
        store = open_experiment(params.tracking, params.cache.path)
        with store_errors(store.uri):
            for each, drawn in zip(rounds, figures, strict=True):
                runner = each.of.runner(folders)
                if made := log_missing_trials(
                    store, each.study, each.trials, each.of.params, runner, each.of.clips
                ):
                    print(f"{made} trials that MLflow did not have were logged again")
                log_study(
                    store,
                    each.study.study_name,
                    trial_key(each.study, each.best.number),
                    {**point_of(each.best), **each.best.user_attrs[MEANS_ATTRIBUTE]},
                    sentence,
                    table_of([each], [cost.name for cost in COSTS]),
                    drawn,
                    registers=each is rounds[-1],
                )
            if log_missing(store, params, rounds[-1].of.runner(folders)):
                print("the baseline, which MLflow did not have, was logged again")
            show_columns(store, search, params.evaluation.primary)
    except UserError as error:
        print(f"MLflow does not show the end of this search, `lora-tta search` brings it up to date: {error}")


if __name__ == "__main__":
    end_process(report_user_errors(main))
