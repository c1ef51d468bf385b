"""One worker of a study: claims trials, runs them clip by clip, and helps others when none is left."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import numpy as np
import optuna
import torch
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from lora_tta.cache.keys import derive_seed
from lora_tta.config import Params
from lora_tta.errors import FailedWork, UserError, disk_errors, reason_of
from lora_tta.experiment.export import strip
from lora_tta.experiment.runner import ClipRunner
from lora_tta.records.clips import Clip
from lora_tta.records.metric_table import COSTS
from lora_tta.records.outcome import ClipOutcome
from lora_tta.records.point import Point
from lora_tta.records.results import mean_costs, mean_metrics
from lora_tta.records.search_folders import SearchFolders
from lora_tta.search.guesses import Guess
from lora_tta.search.heartbeat import Heartbeat
from lora_tta.search.samplers import build_sampler, has_point, suggest_point
from lora_tta.search.study import (
    CLIPS_ATTRIBUTE,
    FAILURE_ATTRIBUTE,
    FINISHED_STATES,
    MEANS_ATTRIBUTE,
    all_finite,
    open_study,
    point_of,
    trial_key,
)
from lora_tta.search.tracked_trials import trial_settings, trial_title
from lora_tta.tracking.mlflow_runs import (
    log_clip,
    log_dataset,
    log_running_mean,
    log_settings,
    log_summary,
    open_experiment,
    tag_state,
)
from lora_tta.tracking.runs import OpenRun, study_run_id, tracked_run
from lora_tta.tracking.store import Store

WORKER_ATTRIBUTE, TRIES_ATTRIBUTE = "worker", "tries"
# A trial that failed may have met a passing fault, such as memory that another program took.
MAX_TRIES = 3
# Between two looks whether a helper is done with a clip.
HELPER_SECONDS = 0.2


class Worker:
    """Works on a study beside any number of others, in other processes and on other machines.

    - A trial belongs to one worker at a time, whose name it carries. Trials are claimed under a lock, and
      the trial of a worker that has died is claimed again, under its old number.
    - The work on a clip lies in the cache, so nothing that a dead worker finished is done again.
    - A trial whose work fails is tried again at most twice. Then it has failed, with its reason, and the
      study goes on. Numbers that are not finite would be the same again, so they fail at once.
    - A worker that finds no trial to claim takes clips of running trials from their end.

    Args:
        params: of the pipeline.
        folders: of this search.
        clips: in the order in which every trial goes through them.
        shows_progress: of the study and of its own trials.
        guesses: the points that the study tries first.
        runner: of the clips, with these ``params``; a new one if None.
    """

    def __init__(
        self,
        params: Params,
        folders: SearchFolders,
        clips: Sequence[Clip],
        shows_progress: bool = True,
        guesses: Sequence[Guess] = (),
        runner: ClipRunner | None = None,
    ):
        self.params = params
        self.search = params.search
        self.clips = clips
        self.runner = runner or ClipRunner(params, folders.clips, folders.encoded)
        self._check_metrics()
        self.study = open_study(folders.study, params, self.runner.study_identity(clips), guesses)
        self._lock = self.runner.cache.lock({"study": self.study.study_name})
        self._tracking_lock = self.runner.cache.lock({"tracking": params.tracking.uri})
        self._heartbeat = Heartbeat(
            params.cache.path / "workers" / self.study.study_name, params.workers.heartbeat_seconds
        )
        self._shows_progress = shows_progress
        # Clips that need no help any more, and points at which one failed in this worker's hands.
        self._done: set[tuple[str, tuple | None]] = set()
        self._given_up: set[tuple | None] = set()

    def work(self) -> None:
        """Return when the study has all its trials finished."""
        with self._tracking_lock:
            store = open_experiment(self.params.tracking, self.params.cache.path)
            study_run_id(store, self.study.study_name)
        progress = tqdm(
            total=self.search.num_trials, desc="search", unit="trial", disable=not self._shows_progress
        )
        with self._heartbeat, progress:
            # Every trial is compared with them, and between two of its clips they would cost the most: the
            # model would have to give up its adapter.
            self._finish(self._begun_in_advance(self.clips, None))
            while True:
                progress.update(len(self._trials(*FINISHED_STATES)) - progress.n)
                trial = self._claim()
                if trial is not None:
                    self._run(trial, store)
                elif not self._trials(TrialState.RUNNING):
                    break
                elif not self._help():
                    time.sleep(min(1.0, self.params.workers.heartbeat_seconds))
            progress.update(self.search.num_trials - progress.n)

    def _claim(self) -> optuna.Trial | None:
        """A trial that a dead worker left or that is to be tried again, or a new one, or None."""
        with self._lock:
            running = self._trials(TrialState.RUNNING)
            # Whoever holds the lock claims a whole point: half a one was left by a worker that died over it,
            # and would not count as taken.
            orphans = [
                trial
                for trial in running
                if not self._has_point(trial)
                or not self._heartbeat.is_alive(trial.user_attrs.get(WORKER_ATTRIBUTE))
            ]
            if not orphans and len(running) + len(self._trials(*FINISHED_STATES)) >= self.search.num_trials:
                return None
            number = orphans[0].number if orphans else len(self.study.trials)
            # A seed of its own for each trial: what is suggested does not depend on interruptions.
            self.study.sampler = build_sampler(self.search, derive_seed(self.search.seed, str(number)))
            trial = optuna.Trial(self.study, orphans[0]._trial_id) if orphans else self.study.ask()
            trial.set_user_attr(WORKER_ATTRIBUTE, self._heartbeat.worker_id)
            suggest_point(trial, self.search.dimensions)
            return trial

    def _run(self, trial: optuna.Trial, store: Store) -> None:
        """Run a claimed trial on the clips, log it, and tell the study."""
        title = trial_title(trial.number, point_of(trial))
        run_of_trial = tracked_run(
            store,
            title,
            "trial",
            trial_key(self.study, trial.number),
            self.study.study_name,
            is_owned=lambda: self._owns(trial),
        )
        try:
            with disk_errors(), run_of_trial as run, self.runner.working():
                log_settings(run, trial_settings(self.params, trial))
                log_dataset(run, self.params.data.root, self.runner.clips_folder)
                outcomes, baseline, pruned = self._run_clips(trial, title, run)
                results = [outcome.result for outcome in outcomes]
                means = mean_metrics(results) | mean_costs(results)
                if not all_finite(means):
                    raise FailedWork(f"means are not finite: {means}")
                values = [means[objective.metric] for objective in self.search.objectives]
                constraints = {
                    constraint.metric: means[constraint.metric] - constraint.at_most
                    for constraint in self.search.constraints
                }
                log_summary(run, outcomes, baseline, "search", self.params.evaluation)
                tag_state(run, "pruned" if pruned else "complete")
        except UserError:
            raise
        except Exception as error:
            self._fail(trial, error)
            return
        with self._lock:
            if not self._owns(trial):
                return
            trial.set_user_attr(MEANS_ATTRIBUTE, means)
            trial.set_user_attr(CLIPS_ATTRIBUTE, len(outcomes))
            for name, value in constraints.items():
                trial.set_constraint(name, value)
            if pruned:
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                self.study.tell(trial, values)

    def _fail(self, trial: optuna.Trial, error: Exception) -> None:
        """Count a failed try; the trial has failed after the last one, and is open to be claimed before."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        with self._lock:
            if not self._owns(trial):
                return
            tries = trial.user_attrs.get(TRIES_ATTRIBUTE, 0) + 1
            trial.set_user_attr(TRIES_ATTRIBUTE, tries)
            trial.set_user_attr(FAILURE_ATTRIBUTE, reason_of(error))
            if isinstance(error, FailedWork) or tries >= MAX_TRIES:
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                trial.set_user_attr(WORKER_ATTRIBUTE, None)

    def _run_clips(
        self, trial: optuna.Trial, title: str, run: OpenRun
    ) -> tuple[list[ClipOutcome], list[ClipOutcome], bool]:
        """The clips, until the pruner stops the trial; says whether it did.

        Without a pruner, a clip's measurements are waited for while the model works on another clip.
        """
        begun: dict[int, Future[tuple[ClipOutcome, ClipOutcome]]] = {}
        values: list[float] = []
        progress = tqdm(
            total=len(self.clips), desc=title, unit="clip", leave=False, disable=not self._shows_progress
        )
        with progress:
            for number, future in self._begun_clips(trial, run):
                progress.update()
                begun[number] = future
                for other in begun.values():
                    if other.done():
                        other.result()  # A failure ends the trial at once.
                # In the order of the clips, whichever was begun first: a running mean depends on it.
                while len(values) in begun and (self._prunes or len(values) != number):
                    self._report(trial, values, begun[len(values)].result()[0], run)
                if self._prunes and len(begun) < len(self.clips) and trial.should_prune():
                    break
        pairs = [begun[number].result() for number in range(len(begun))]
        for adapted, _ in pairs[len(values) :]:
            self._report(trial, values, adapted, run)
        pruned = len(pairs) < len(self.clips)
        return [adapted for adapted, _ in pairs], [before for _, before in pairs], pruned

    def _begun_clips(
        self, trial: optuna.Trial, run: OpenRun
    ) -> "Iterator[tuple[int, Future[tuple[ClipOutcome, ClipOutcome]]]]":
        """The numbers of all clips, each with its work once that has begun.

        The clips come in order, but for those in a helper's hands, which come when they are done. Until then
        this worker helps others.
        """
        left = dict(enumerate(self.clips))
        while left:
            taken = len(left)
            for number, clip in list(left.items()):
                if future := self._begin_clip(clip, point_of(trial), run):
                    del left[number]
                    yield number, future
            # One clip of another's, and not to its measurements: this trial's own may be ready before.
            if len(left) == taken and next(self._begun_for_others(), None) is None:
                time.sleep(HELPER_SECONDS)

    def _begin_clip(
        self, clip: Clip, point: Point, run: OpenRun
    ) -> "Future[tuple[ClipOutcome, ClipOutcome]] | None":
        """Begin a clip at a point and without adaptation, unless a helper works on the first.

        Both are logged beside the next clip's work.
        """
        # A pruner judges the clips in their order, and there are no helpers then.
        adapted = (self.runner.begin if self._prunes else self.runner.try_begin)(clip, point)
        if adapted is None:
            return None
        before = self.runner.begin(clip, None)

        def log() -> tuple[ClipOutcome, ClipOutcome]:
            pair = adapted.result(), before.result()
            log_clip(run, pair[0], strip(self.runner.clips_folder, *pair))
            return pair

        return self.runner.beside.submit(log)

    def _report(self, trial: optuna.Trial, values: list[float], outcome: ClipOutcome, run: OpenRun) -> None:
        """Add a clip's value to those of the trial, and tell the study and MLflow of it."""
        metric = self.search.objectives[0].metric
        values.append((mean_metrics([outcome.result]) | mean_costs([outcome.result]))[metric])
        if len(self.search.objectives) > 1:
            return
        mean = float(np.mean(values))
        log_running_mean(run, metric, mean, len(values))
        # Wilcoxon's test pairs the values of single clips; the other pruners compare running means.
        trial.report(values[-1] if self.search.pruner == "wilcoxon" else mean, len(values) - 1)

    def _help(self) -> bool:
        """Do clips of others' trials that nobody works on; False if there are none."""
        return self._finish(self._begun_for_others())

    def _begun_for_others(self) -> Iterator[Future[ClipOutcome]]:
        """Begin clips of the first other trial that has some, from its end."""
        # A pruner may never need the clips at a trial's end.
        for trial in [] if self._prunes else self._trials(TrialState.RUNNING):
            if self._has_point(trial) and trial.user_attrs.get(WORKER_ATTRIBUTE) != self._heartbeat.worker_id:
                begun = self._begun_in_advance(self.clips[::-1], point_of(trial))
                if first := next(begun, None):
                    yield first
                    yield from begun
                    return

    def _begun_in_advance(self, clips: Sequence[Clip], point: Point | None) -> Iterator[Future[ClipOutcome]]:
        """Begin those of the clips that nobody has done or works on.

        After a failure, this worker leaves the point to the trial's own, which meets the same and tells it.
        """
        name = None if point is None else tuple(point.items())

        def note(future: Future[ClipOutcome]) -> None:
            if future.exception():
                self._given_up.add(name)

        for clip in clips:
            if name in self._given_up:
                return
            if (clip.clip_id, name) in self._done:
                continue
            if self.runner.is_done(clip, point):
                self._done.add((clip.clip_id, name))
                continue
            try:
                future = self.runner.try_begin(clip, point)
            except UserError:
                raise
            except Exception:
                self._given_up.add(name)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                return
            if future:
                future.add_done_callback(note)
                yield future

    def _finish(self, begun: Iterator[Future[ClipOutcome]]) -> bool:
        """Begin all and wait for them; whether one came to a good end, as one that fails is left."""
        with self.runner.working():
            futures = list(begun)
        errors = [future.exception() for future in futures]
        for error in errors:
            if isinstance(error, UserError):
                raise error
        return None in errors

    @property
    def _prunes(self) -> bool:
        return self.search.pruner != "none"

    def _owns(self, trial: optuna.Trial) -> bool:
        """Whether the trial is this worker's still: one that was taken for dead has lost it."""
        return self._trial(trial.number).user_attrs[WORKER_ATTRIBUTE] == self._heartbeat.worker_id

    def _has_point(self, trial: FrozenTrial) -> bool:
        return has_point(self.search.dimensions, trial)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _trial(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _check_metrics(self) -> None:
        measured = [*self.runner.metric_names, *(cost.name for cost in COSTS)]
        for item in (*self.search.objectives, *self.search.constraints):
            if item.metric not in measured:
                raise UserError(
                    f"search: {item.metric} cannot be measured with evaluation.lpips: "
                    f"{self.params.evaluation.lpips}; choose one of {', '.join(measured)}"
                )
