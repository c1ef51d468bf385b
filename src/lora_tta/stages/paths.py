"""Where each stage writes; the same paths stand in ``dvc.yaml``."""

from pathlib import Path

CLIPS = Path("outputs/clips")
ENCODED = Path("outputs/encoded")
ENCODING_MODEL = ENCODED / "model.json"
DISTANCE = ENCODED / "distance.json"
BASELINE = Path("outputs/baseline")
YARDSTICKS_FOLDER = "yardsticks"  # of the baseline
SEARCH = Path("outputs/search")
STUDY = SEARCH / "study"
SLURM_LOGS = Path("outputs/slurm")
FIGURES = SEARCH / "figures"
BEST = SEARCH / "best.json"
TRIALS = SEARCH / "trials.csv"
ADAPT = Path("outputs/adapt")
EVALUATE = Path("outputs/evaluate")
PLOTS = EVALUATE / "plots"
METRICS = EVALUATE / "metrics.json"
YARDSTICK_METRICS = EVALUATE / "metrics_yardsticks.json"
FVD_METRICS = EVALUATE / "metrics_fvd.json"
SEARCH_CLIPS_METRICS = EVALUATE / "metrics_search_clips.json"
# Costs differ from run to run and belong to one machine: DVC does not track them.
COSTS = Path("outputs/costs")
BASELINE_COSTS = COSTS / "baseline.csv"
ADAPT_COSTS = COSTS / "adapt.csv"
REPORT_COSTS = COSTS / "report.js"
REPORT = EVALUATE / "report.html"
