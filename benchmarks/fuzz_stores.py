"""Damaged stores: an MLflow database, a study's journal or its export is used, or refused in one line.

    nice python benchmarks/fuzz_stores.py --files 500

Each file is damaged by a seeded generator, and opened as stages, searches and the UI open it, in a process
of its own. A process that dies, raises anything but a `UserError` of one line, prints a traceback or takes
longer than --seconds is a failure. The exit status is 1 if there is one.
"""

import json
import logging
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from fuzzing import ERROR, fuzz_parser, in_a_process, keep_failure
from mutations import mutate

from lora_tta.config import Params, load_params
from lora_tta.errors import UserError
from lora_tta.imports import large_imports

with large_imports():
    import optuna

    from lora_tta.search.samplers import build_sampler
    from lora_tta.search.study import (
        CLIPS_ATTRIBUTE,
        JOURNAL,
        MEANS_ATTRIBUTE,
        best_trial,
        finished_trials,
        open_study,
        trial_table,
    )
    from lora_tta.search.study_export import export_study
    from lora_tta.tracking.mlflow_runs import open_experiment, show_columns
    from lora_tta.tracking.runs import ended_keys, tracked_run
    from lora_tta.tracking.store import store_errors

REPOSITORY = Path(__file__).parents[1]
DATABASE, STUDIES = Path("mlflow.db"), Path("study")
TRIALS = 4
TOKEN = re.compile(r'-?\d+(\.\d+)?|"[^"]*"|null|true|false|\[\]|\{\}')
VALUES = ("null", "true", "0", "1", "-1", "99999", "1e400", "NaN", '""', '"x"', '"rank"', "[]", "{}", "[1]")


def main() -> int:
    """Make, damage and open stores; print what became of them."""
    arguments = fuzz_parser(__doc__, files=500, seconds=60).parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    generator = random.Random(arguments.seed)
    outcomes: Counter[str] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        whole, damaged = Path(temporary) / "whole", Path(temporary) / "damaged"
        printed = Path(temporary) / "printed"
        _outcome_of(lambda: _fill(settings_in(whole)), arguments.seconds, printed)
        files = {
            "database": (DATABASE, _use_database),
            "journal": (JOURNAL, _use_study),
            "export": (next((whole / STUDIES).iterdir()).relative_to(whole), _use_study),
        }
        for number in range(arguments.files):
            kind = list(files)[number % len(files)]
            name, use = files[kind]
            shutil.rmtree(damaged, ignore_errors=True)
            shutil.copytree(whole, damaged)
            if kind == "export":
                (damaged / JOURNAL).unlink()  # A clone of the repository has the export alone.
            data = (whole / name).read_bytes()
            change = _other_values if kind != "database" and generator.random() < 0.7 else _other_bytes
            (damaged / name).write_bytes(change(data, generator))
            outcome = _outcome_of(lambda use=use: use(settings_in(damaged)), arguments.seconds, printed)
            is_known = outcome in ("used", "refused")
            outcomes[f"{kind} {outcome if is_known else 'failed'}"] += 1
            if not is_known:
                failed += 1
                print(f"file {number} ({kind}): {outcome}", flush=True)
                keep_failure(arguments.keep, damaged / name, f"{number}-{kind}")
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"{arguments.files} stores: {counts}; {failed} failed")
    return 1 if failed else 0


def _other_bytes(data: bytes, generator: random.Random) -> bytes:
    return mutate(data, [data], generator)


def _other_values(data: bytes, generator: random.Random) -> bytes:
    """JSON that is valid, with other values, or lines that are lost, doubled or exchanged."""
    text = data.decode()
    for _ in range(generator.choice((1, 1, 3))):
        if generator.random() < 0.7:
            place = generator.choice(list(TOKEN.finditer(text))).span()
            text = text[: place[0]] + generator.choice(VALUES) + text[place[1] :]
        else:
            lines = text.splitlines(keepends=True)
            taken = lines.pop(generator.randrange(len(lines)))
            if generator.random() < 0.7:
                for _ in range(generator.choice((1, 2))):
                    lines.insert(generator.randrange(len(lines) + 1), taken)
            text = "".join(lines)
    return text.encode()


def settings_in(folder: Path) -> Params:
    """The repository's settings with all stores in a folder."""
    values = load_params(REPOSITORY / "params.yaml").model_dump()
    values["tracking"] |= {"uri": f"sqlite:///{folder / DATABASE}", "artifact_root": folder / "artifacts"}
    values["cache"]["path"] = folder
    return Params.model_validate(values)


def _fill(params: Params) -> None:
    store = open_experiment(params.tracking, params.cache.path)
    for number in range(TRIALS):
        with tracked_run(store, f"trial {number}", "trial", f"study/{number}") as run:
            run.send(params={"rank": "8"}, metrics={"psnr": 20.0 + number})
    exports = params.cache.path / STUDIES
    study = open_study(exports, params, {})
    for number in range(TRIALS):
        study.sampler = build_sampler(params.search, seed=number)
        trial = study.ask()
        for name, choices in params.search.space.items():
            trial.suggest_categorical(name, choices)
        trial.set_user_attr(MEANS_ATTRIBUTE, {"psnr": float(number)})
        trial.set_user_attr(CLIPS_ATTRIBUTE, 1)
        study.tell(trial, float(number))
    export_study(study, finished_trials(study, TRIALS), exports)


def _use_database(params: Params) -> None:
    store = open_experiment(params.tracking, params.cache.path)
    with store_errors(store.uri):
        show_columns(store, params.search, params.evaluation.primary)
        ended_keys(store, "study")
        with tracked_run(store, "trial 9", "trial", "study/9") as run:
            run.send(params={"rank": "8"}, metrics={"psnr": 20.0})


def _use_study(params: Params) -> None:
    study = open_study(params.cache.path / STUDIES, params, {})
    trials = finished_trials(study, TRIALS)
    trial_table(trials)
    study.sampler = build_sampler(params.search, seed=0)
    study.ask()
    if trials:
        best_trial(study, TRIALS)


def _outcome_of(work: Callable[[], None], seconds: int, printed: Path) -> str:
    """What became of a process: ``used``, ``refused``, or what was wrong."""
    ended = in_a_process(lambda: _status_of(work), seconds, printed)
    if ended.status in (0, 1) and "Traceback" not in ended.printed:
        return ("used", "refused")[ended.status]
    return ended.death or json.dumps(ended.printed[-600:])


def _status_of(work: Callable[[], None]) -> int:
    logging.raiseExceptions = True
    try:
        work()
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return 1 if len(str(error).splitlines()) == 1 else ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
