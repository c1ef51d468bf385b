"""``lora-tta ui``: serve the MLflow UI."""

import argparse
import subprocess
from typing import Any

from lora_tta.config import load_params


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("ui", help="serve the MLflow UI")
    parser.add_argument("--port", type=int, default=5000)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Serve the store that ``tracking.uri`` names."""
    uri = load_params().tracking.uri
    subprocess.run(["mlflow", "ui", "--backend-store-uri", uri, "--port", str(arguments.port)], check=False)
