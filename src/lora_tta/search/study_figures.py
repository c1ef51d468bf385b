"""Plotly figures of a study: its course, its result, and the importance of each setting."""

import optuna
from optuna import visualization
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import TrialState
from plotly.graph_objects import Figure

from lora_tta.search.study import values_of


def study_figures(study: optuna.Study, metrics: list[str]) -> dict[str, Figure]:
    """Figures by name, for a study whose objectives are ``metrics``.

    One objective: ``history``, ``parallel_coordinates`` and, once two points can be told apart,
    ``importances``. Several: ``pareto_front``, and the importances for the first.
    """
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    figures: dict[str, Figure] = {}
    target = None if len(metrics) == 1 else lambda trial: trial.values[0]
    if len(metrics) == 1:
        figures["history"] = visualization.plot_optimization_history(study, target_name=metrics[0])
        figures["parallel_coordinates"] = visualization.plot_parallel_coordinate(
            study, target_name=metrics[0]
        )
    elif len(metrics) in (2, 3):
        figures["pareto_front"] = visualization.plot_pareto_front(study, target_names=metrics)
    if len({values_of(trial)[0] for trial in complete}) > 1:
        figures["importances"] = visualization.plot_param_importances(
            study, FanovaImportanceEvaluator(seed=0), target=target, target_name=metrics[0]
        )
    return figures
