"""The DVC stages, which are programs: Ctrl-C ends them in one line, also while they import."""

import sys
from types import TracebackType

from lora_tta.errors import INTERRUPTED

_show = sys.excepthook


def _one_line_for_ctrl_c(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(f"error: {INTERRUPTED}", file=sys.stderr)
    else:
        _show(kind, error, trace)


sys.excepthook = _one_line_for_ctrl_c
