"""``lora-tta compare A B``: any two finished arms, on the clips and seeds that they have in common."""

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_tta.config import TrackingParams, load_params
from lora_tta.errors import UserError
from lora_tta.records.arm_settings import different_settings, read_settings
from lora_tta.records.metric_table import metric
from lora_tta.stages.paths import ADAPT

if TYPE_CHECKING:
    from lora_tta.evaluation.statistics import PairedComparison
    from lora_tta.records.results import ClipResult

RUN_ID = re.compile(r"[0-9a-f]{32}")
ARM = (
    "a folder of results (outputs/adapt), the id of an MLflow run, or a Git revision with or without such a "
    f"folder (main, HEAD~1:outputs/baseline; without one, {ADAPT})"
)


def add_to(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("compare", help="two finished arms on their common clips", description=ARM)
    parser.add_argument("before", metavar="A", help="an arm, see above")
    parser.add_argument("after", metavar="B", help="another; differences are B minus A")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the paired comparison of every metric, and which clips are left out.

    Raises:
        UserError: an arm is not found, or nothing in the two can be compared.
    """
    from lora_tta.evaluation.comparison import compare

    params = load_params()
    (before, before_settings), (after, after_settings) = (
        read_arm(name, params.tracking) for name in (arguments.before, arguments.after)
    )
    common, left_out = common_clips(before, after)
    # Folders of earlier versions do not tell their settings.
    if before_settings and after_settings:
        for difference in different_settings(before_settings, after_settings):
            print(f"differs: {difference}")
    for reason in left_out:
        print(f"left out: {reason}")
    if not common:
        raise UserError(f"{arguments.before} and {arguments.after} have no clip in common that can be paired")
    comparisons = compare(
        [pair[0] for pair in common],
        [pair[1] for pair in common],
        params.evaluation.bootstrap_samples,
        params.evaluation.seed,
    )
    print(f"{len(common)} clips; A is {arguments.before}, B is {arguments.after}\n")
    print("\n".join(comparison_lines(comparisons, params.evaluation.primary)))


def read_arm(name: str, tracking: TrackingParams) -> "tuple[list[ClipResult], dict[str, Any]]":
    """The results of an arm and the settings that it was made with, empty if they are not known.

    Args:
        name: a folder, an MLflow run's id, or a Git revision, as :data:`ARM` says.
        tracking: where runs are.

    Raises:
        UserError: there is no such arm, or it holds no results.
    """
    from lora_tta.records.results import CLIPS_TABLE, read_results
    from lora_tta.stages.revisions import fetch_tables

    if (Path(name) / CLIPS_TABLE).exists():
        return read_results(Path(name)), read_settings(Path(name))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if Path(name).exists() or not (_fetch_run(name, tracking, folder) or fetch_tables(name, folder)):
            raise UserError(f"no results in {name}: give {ARM}")
        return read_results(folder), read_settings(folder)


def common_clips(
    before: "Sequence[ClipResult]", after: "Sequence[ClipResult]"
) -> "tuple[list[tuple[ClipResult, ClipResult]], list[str]]":
    """The pairs of results of the same test window from the same noise, and why other clips are left out.

    A clip that chose the settings of either arm would speak for it.
    """
    searched = {result.clip_id for result in (*before, *after) if result.split == "search"}
    before, after = ([result for result in arm if result.clip_id not in searched] for arm in (before, after))
    by_id = {result.clip_id: result for result in after}
    alone = {result.clip_id for result in before} ^ by_id.keys()
    both = [(result, by_id[result.clip_id]) for result in before if result.clip_id in by_id]
    windows = [pair for pair in both if pair[0].frames_sha256 == pair[1].frames_sha256]
    common = [pair for pair in windows if len({result.seed for result in pair} - {None}) < 2]
    reasons = [
        (len(searched), "that chose the settings of an arm"),
        (len(alone), "in one arm only"),
        (len(both) - len(windows), "with other frames in the two arms (preprocess, data)"),
        (len(windows) - len(common), "from other starting noise (generation.seed)"),
    ]
    return common, [f"{count} clips {reason}" for count, reason in reasons if count]


def comparison_lines(comparisons: "dict[str, PairedComparison]", primary: str) -> list[str]:
    """A table for people; the primary metric's row is marked."""
    rows = [f"{'':<29}{'A':>10}{'B':>10}{'B - A':>12}  {'95 % interval':<22}{'better':>7}  verdict"]
    for name, values in comparisons.items():
        interval = f"{values.interval_low:+.4f} .. {values.interval_high:+.4f}" if values.clips > 1 else "-"
        rows.append(
            f"{metric(name).title + (' *' if name == primary else ''):<29}{values.baseline:>10.4f}"
            f"{values.adapted:>10.4f}{values.difference:>+12.4f}  {interval:<22}"
            f"{values.share_improved:>7.0%}  {values.verdict}"
        )
    return [*rows, "* primary metric; the others are secondary" if primary in comparisons else ""]


def _fetch_run(name: str, tracking: TrackingParams, folder: Path) -> bool:
    if not RUN_ID.fullmatch(name):
        return False
    from lora_tta.tracking import mlflow_runs

    return mlflow_runs.fetch_tables(tracking, name, folder)
