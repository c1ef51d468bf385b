"""Stage ``preprocess``: raw videos to H.264 clips with a manifest."""

import sys

from lora_tta.config import load_params
from lora_tta.data.preprocess import preprocess
from lora_tta.errors import report_user_errors
from lora_tta.stages.paths import CLIPS


def main() -> None:
    """Write ``outputs/clips``."""
    params = load_params()
    preprocess(params.data, params.preprocess, CLIPS)


if __name__ == "__main__":
    sys.exit(report_user_errors(main))
