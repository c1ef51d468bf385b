"""The one exception that is shown to the user as a plain line instead of a traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can put right.

    The message is one line that says what was wrong, where, and what to do; the command line prints it
    to standard error and exits with status 2.
    """


class FailedWork(Exception):  # noqa: N818
    """A piece of work on a clip that gave no usable result: the trial or the clip fails, nothing else does.

    The message is one line with the reason, for instance a loss that is not a number, or memory that ran out.
    """


def reason_of(error: BaseException) -> str:
    """The reason of a failure in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError | FailedWork) else f"{type(error).__name__}: {text}"


def report_user_errors(run: Callable[[], None]) -> int:
    """Call ``run``; returns 0, or 2 after printing a :class:`UserError` as one line."""
    try:
        run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
