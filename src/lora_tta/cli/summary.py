"""The last run in a few lines, for the terminal."""

import json

from lora_tta.errors import UserError
from lora_tta.records.clips import read_manifest
from lora_tta.records.metric_table import METRIC_LABELS
from lora_tta.stages.paths import BEST, CLIPS, COSTS, EVALUATE, METRICS, REPORT


def print_summary() -> None:
    """Print the comparison table of the last run and where its report is.

    Raises:
        UserError: there is no finished run.
    """
    if not METRICS.exists():
        raise UserError(f"{METRICS} not found: run `dvc repro` first")
    comparisons, costs = json.loads(METRICS.read_text()), json.loads(COSTS.read_text())
    best = json.loads(BEST.read_text())
    print(f"{len(read_manifest(CLIPS))} clips, best of {best['trials']} trials: {best['settings']}\n")
    header = f"{'frames 34-65':<27}{'baseline':>10}{'adapted':>10}{'difference':>12}  "
    print(f"{header}{'95 % interval':<20}improved")
    for name, values in comparisons.items():
        interval = (
            "-"
            if values["interval_low"] is None
            else f"{values['interval_low']:+.4f} .. {values['interval_high']:+.4f}"
        )
        print(
            f"{METRIC_LABELS[name]:<27}{values['baseline']:>10.4f}{values['adapted']:>10.4f}"
            f"{values['difference']:>+12.4f}  {interval:<20}{values['share_improved']:>7.0%}"
        )
    for name in ("adapt_seconds_per_clip", "generate_seconds_per_clip"):
        label = name.replace("_", " ")
        print(f"{label:<27}{costs['baseline'][name]:>10.2f}{costs['adapted'][name]:>10.2f}")
    print(f"\nreport: {REPORT}\nplots:  {EVALUATE}, or `dvc plots show`")
