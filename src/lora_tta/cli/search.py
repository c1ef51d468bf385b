"""``lora-tta search``: work on the study outside of ``dvc repro``."""

import argparse
from typing import Any


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("search", help="work on the study outside `dvc repro`")
    parser.add_argument(
        "--workers", type=positive_number, metavar="N", help="processes, or jobs on a cluster"
    )
    parser.add_argument("--cluster", choices=["slurm"], help="submit the workers as jobs")
    parser.set_defaults(run=run)


def positive_number(text: str) -> int:
    """A whole number of 1 or more."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def run(arguments: argparse.Namespace) -> None:
    """Bring the study to its number of trials."""
    from lora_tta.stages.search import main

    main(arguments.workers, arguments.cluster)
