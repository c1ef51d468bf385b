"""The ``lora-tta`` command: everything that is not a DVC stage.

Each other module of this package is one command.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from lora_tta.cli import cache, compare, continue_video, convert, import_videos, params, search, summary, ui
from lora_tta.errors import report_user_errors

COMMANDS = (continue_video, params, import_videos, convert, search, cache, summary, compare, ui)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a :class:`UserError` becomes one line on standard error and status 2."""
    parser = argparse.ArgumentParser(prog="lora-tta", description="Test-time adaptation of video models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    arguments = parser.parse_args(argv)
    try:
        status = report_user_errors(lambda: arguments.run(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has enough, as `head` has. Python would flush once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
