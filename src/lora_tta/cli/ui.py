"""``lora-tta ui``: serve the MLflow UI."""

import argparse
import os
import sys
from typing import Any

from lora_tta.places import SERVERS
from lora_tta.stages.stage_params import load_stage_params


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("ui", help="serve the MLflow UI")
    parser.add_argument("--port", type=int, default=5000)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the page that compares the trials, and serve the store that ``tracking.uri`` names.

    Raises:
        UserError: the store does not answer.
    """
    from lora_tta.tracking.mlflow_runs import open_experiment, show_columns, view_link

    params = load_stage_params()
    store = open_experiment(params.tracking, params.cache.path)
    show_columns(store, params.search, params.evaluation.primary)
    has_server = store.uri.startswith(SERVERS)
    address = store.uri.rstrip("/") if has_server else f"http://127.0.0.1:{arguments.port}"
    print(f"trials, gains and intervals: {view_link(store, address)}", flush=True)
    if not has_server:
        command = ["mlflow", "ui", "--backend-store-uri", store.uri, "--port", str(arguments.port)]
        # Its runner of jobs is for features that are not used here, and half of its start.
        os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        # One process serves the one user; MLflow's four would each import all of it.
        os.environ.setdefault("MLFLOW_WORKERS", "1")
        # In place of this process, so that what ends it ends the server.
        os.execv(sys.executable, [sys.executable, "-m", *command])  # noqa: S606
