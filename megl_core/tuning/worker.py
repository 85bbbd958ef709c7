"""A process of a search: trains with what the study proposes, until enough was tried."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megl_core.config import Config, changed
from megl_core.errors import ConfigError, DataError, MeglError
from megl_core.files import sha256_json
from megl_core.progress import SilentReporter
from megl_core.registry.tracking import Tracker, start_run
from megl_core.training import train
from megl_core.tuning.space import Space, overrides
from megl_core.tuning.study import next_trial, open_study, suggest

if TYPE_CHECKING:
    from optuna import Study, Trial


@dataclass(frozen=True)
class Job:
    """What a process needs to know."""

    data: Path
    space: Space
    config: Config
    folder: Path
    workspace: Path
    trials: int
    seed: int
    code: str
    parent_run: str | None


def work(job: Job, number: int) -> None:
    """Try settings until enough trials were begun."""
    study = open_study(job.folder, job.seed + number)
    while (trial := next_trial(study, job.folder, job.trials)) is not None:
        if not _try(study, trial, job):
            return


def _try(study: "Study", trial: "Trial", job: Job) -> bool:
    """Train with a trial's settings and tell the study how that went; False: so will all others."""
    import optuna

    values = {name: suggest(trial, name, values) for name, values in job.space.parameters.items()}
    config = changed(job.config, overrides(values))
    checkpoints = job.folder / "checkpoints" / sha256_json(values)[:16]
    try:
        with _trial_run(trial.number, job) as tracker:
            score = _train(trial, config, checkpoints, job, tracker)
        study.tell(trial, score)
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except MeglError as error:  # such as a loss that is not finite; the next settings may be better
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if isinstance(error, ConfigError | DataError):
            return False
    shutil.rmtree(checkpoints, ignore_errors=True)
    return True


def _train(trial: "Trial", config: Config, checkpoints: Path, job: Job, tracker: "_TrialTracker") -> float:
    tracker.watch(trial, job.space)
    with tempfile.TemporaryDirectory(dir=job.folder) as name:
        result = train(
            job.data,
            Path(name) / "model",
            config.model,
            config.objective,
            config.train,
            tracker=tracker,
            reporter=SilentReporter(),
            checkpoints=checkpoints,
            code=job.code,
        )
    if result is None:
        raise MeglError("a trial is one process", fix="start megl tune itself, not torchrun")
    return job.space.score_of(result.metrics)


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
def _trial_run(number: int, job: Job) -> Iterator[_TrialTracker]:
    """An MLflow run below that of the search, or none; one that is pruned has not failed."""
    import optuna

    if job.parent_run is None:
        yield _TrialTracker(None)
        return
    tags = {"mlflow.parentRunId": job.parent_run, "megl.trial": str(number)}
    pruned = False
    with start_run(
        job.config.registry, job.workspace, name=f"trial {number}", tags=tags, system_metrics=False
    ) as tracker:
        try:
            yield _TrialTracker(tracker)
        except optuna.TrialPruned:
            tracker.set_tags({"megl.pruned": "true"})
            pruned = True
    if pruned:
        raise optuna.TrialPruned
