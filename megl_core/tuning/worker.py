"""A process of a search: trains with what the study proposes, until enough was tried."""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megl_core.config import Config, changed
from megl_core.errors import MeglError, UnavailableError
from megl_core.locks import locked
from megl_core.progress import SilentReporter
from megl_core.registry.tracking import Tracker, start_run
from megl_core.training import train
from megl_core.tuning.space import Space, overrides
from megl_core.tuning.study import next_trial, open_study, origin, suggest

if TYPE_CHECKING:
    from optuna import Study, Trial

CHECKPOINTS = "checkpoints"
WORKERS_LOCK = "workers.lock"
"""Shared by the processes of a search: a new search waits for those of a killed one."""
RUN = "mlflow_run"
"""Attribute of a trial: its MLflow run."""


@dataclass(frozen=True)
class Job:
    """What a process needs to know."""

    data: Path | str
    space: Space
    config: Config
    folder: Path
    workspace: Path
    trials: int
    seed: int
    code: str
    parent_run: str | None
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    """Of whoever makes the job: what processes are forked from keeps that of the first search."""


def work(job: Job, number: int, stopped: Event) -> None:
    """Try settings until enough trials were begun, or the search was stopped.

    Ends with the exit code of an `UnavailableError`: all other trials would meet it too. Ctrl-C is the
    parent's to handle, which sends SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    os.environ.clear()
    os.environ.update(job.environment)
    with locked(job.folder / WORKERS_LOCK, shared=True):
        study = open_study(job.folder)
        while not stopped.is_set():
            trial = next_trial(study, job.folder, job.trials, job.seed, number)
            if trial is None:
                return
            _try(study, trial, job)


def _end_with_parent() -> None:
    """A search that was killed leaves nobody behind who writes to its journal."""

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _try(study: "Study", trial: "Trial", job: Job) -> None:
    """Train with a trial's settings and tell the study how that went."""
    import optuna

    checkpoints = job.folder / CHECKPOINTS / f"trial-{origin(trial)}"
    try:
        values = {name: suggest(trial, name, values) for name, values in job.space.parameters.items()}
        config = changed(job.config, overrides(values))
        with _trial_run(trial, job) as tracker:
            score = _train(trial, config, checkpoints, job, tracker)
        study.tell(trial, score)
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except UnavailableError as error:  # no fault of the settings: they are tried again
        trial.set_user_attr("error", str(error))
        sys.exit(error.exit_code)
    except Exception as error:  # a loss that is not finite, memory that runs out: the next may do better
        known = isinstance(error, MeglError)
        shown = str(error) if known else f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        trial.set_user_attr("error", shown)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    shutil.rmtree(checkpoints, ignore_errors=True)


def _train(trial: "Trial", config: Config, checkpoints: Path, job: Job, tracker: "_TrialTracker") -> float:
    tracker.watch(trial, job.space)
    checkpoints.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=checkpoints) as name:
        result = train(
            job.data,
            Path(name) / "model",
            config.model,
            config.objective,
            config.train,
            tracker=tracker,
            reporter=_TrialReporter(trial.number),
            checkpoints=checkpoints,
            code=job.code,
            storage=config.storage,
        )
    if result is None:
        raise MeglError("a trial is one process", fix="start megl tune itself, not torchrun")
    return job.space.score_of(result.metrics)


class _TrialReporter(SilentReporter):
    """Says what is out of the ordinary, such as a step that stands still, and of which trial."""

    def __init__(self, number: int) -> None:
        self._number = number

    def message(self, text: str) -> None:
        print(f"trial {self._number}: {text}", file=sys.stderr, flush=True)


class _TrialTracker:
    """Passes a training's numbers on to MLflow and to the study, which may end the training."""

    def __init__(self, tracker: Tracker | None) -> None:
        self._tracker = tracker
        self._trial: Trial | None = None
        self._space: Space | None = None

    def watch(self, trial: "Trial", space: Space) -> None:
        self._trial, self._space = trial, space

    def log_params(self, params: Mapping[str, Any]) -> None:
        if self._tracker:
            self._tracker.log_params(params)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        import optuna

        if self._tracker:
            self._tracker.log_metrics(metrics, step)
        if self._trial is None or self._space is None or "epoch" not in metrics:
            return
        self._trial.report(self._space.score_of(metrics), int(metrics["epoch"]))
        if self._trial.should_prune():
            raise optuna.TrialPruned


@contextmanager
def _trial_run(trial: "Trial", job: Job) -> Iterator[_TrialTracker]:
    """An MLflow run below that of the search, or none; one that is pruned has not failed."""
    import optuna

    if job.parent_run is None:
        yield _TrialTracker(None)
        return
    tags = {"mlflow.parentRunId": job.parent_run, "megl.trial": str(trial.number)}
    pruned = False
    with start_run(
        job.config.registry, job.workspace, name=f"trial {trial.number}", tags=tags, system_metrics=False
    ) as tracker:
        trial.set_user_attr(RUN, tracker.run_id)
        try:
            yield _TrialTracker(tracker)
        except optuna.TrialPruned:
            tracker.set_tags({"megl.pruned": "true"})
            pruned = True
    if pruned:
        raise optuna.TrialPruned
