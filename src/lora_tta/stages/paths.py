"""Where each stage writes; the same paths stand in ``dvc.yaml``."""

from pathlib import Path

CLIPS = Path("outputs/clips")
ENCODED = Path("outputs/encoded")
BASELINE = Path("outputs/baseline")
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
COSTS = EVALUATE / "costs.json"
REPORT = EVALUATE / "report.html"
