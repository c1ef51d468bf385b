"""``lora-tta search``: work on the study outside of ``dvc repro``."""

import argparse
from typing import Any


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("search", help="work on the study outside `dvc repro`")
    parser.add_argument("--workers", type=int, help="processes, or jobs on a cluster")
    parser.add_argument("--cluster", choices=["slurm"], help="submit the workers as jobs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Bring the study to its number of trials."""
    from lora_tta.stages.search import main

    main(arguments.workers, arguments.cluster)
