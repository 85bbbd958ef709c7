"""The search: Optuna proposes settings, processes train with them, a journal remembers.

    <folder>/journal.log     every trial; what was stopped goes on from here
    <folder>/checkpoints/    of trainings that have not ended
    <folder>/best.yaml       the whole configuration with the best settings, for `--params`
    <folder>/trials.json     all trials

A trial's score is that of its last epoch on the validation split. Nothing else of the data is looked at.
"""

import multiprocessing
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING

import yaml

from megl_core.code import code_digest
from megl_core.config import Config, changed
from megl_core.data.contract import VAL
from megl_core.data.packed import PackedDataset, PackedFiles, read_info
from megl_core.data.streaming import open_packed
from megl_core.errors import DataError, MeglError, UnavailableError
from megl_core.files import write_json, write_text
from megl_core.locks import locked
from megl_core.progress import Bar, Reporter, get_reporter
from megl_core.registry.tracking import Tracker, end_run, start_run
from megl_core.tuning.space import Space, overrides
from megl_core.tuning.study import (
    Attempt,
    alone,
    best_score,
    ended,
    fail,
    open_study,
    require_same,
    take_up,
    trial_of,
)
from megl_core.tuning.worker import CHECKPOINTS, RUN, WORKERS_LOCK, Job, work

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

BEST_FILE = "best.yaml"
TRIALS_FILE = "trials.json"
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Tuned:
    """The result of a search: the best trial, all trials, and the configuration with the best settings."""

    best: Attempt
    attempts: list[Attempt]
    config: Config


def tune(
    data: Path | str,
    space: Space,
    config: Config,
    folder: Path,
    workspace: Path,
    *,
    trials: int,
    processes: int = 1,
    track: bool = True,
    reporter: Reporter | None = None,
) -> Tuned:
    """Search until `trials` trials have ended; trials of an earlier search in the same folder count.

    The configuration's own values are the first trial, where the space holds them. With one process the
    same search gives the same trials; with more, what is proposed depends on which of them ends first.

    Args:
        data: packed data with a validation split: a folder, or the s3:// address that it was uploaded to.
        space: what to try and what to maximise.
        config: all other settings; `train.seed` is also the search's.
        folder: of the search; made if it does not exist.
        workspace: of the local MLflow store.
        processes: trials at a time.
        track: log each trial as a run below a run of the search.

    Raises:
        DataError: the data have no validation split, or no mask in it where the score looks at masks.
        ConfigError: the folder holds a search over other data, settings or code.
        UnavailableError: another process searches in that folder; MLflow or a device is not there.
        MeglError: the folder holds something else than a search, or no trial succeeded.
    """
    with open_packed(data, config.storage) as files:
        _require_measurable(files, space)
        digest = read_info(files).digest
    reporter = reporter or get_reporter()
    with alone(folder):
        study, cut_off = _begin(digest, space, config, folder)
        with _search_run(study, config, workspace, track) as tracker:
            parent = tracker.run_id if tracker else None
            job = Job(
                data, space, config, folder, workspace, trials, config.train.seed, code_digest(), parent
            )
            for trial in cut_off:
                _close_run(trial, job)
            with reporter.bar("trials", trials) as bar:
                _Workers(study, job, processes).follow(reporter, bar)
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            result = _result(study, config)
            _write(folder, result)
            if tracker:
                tracker.log_metrics({"best_score": result.best.score or 0.0})
                tracker.log_artifacts(folder / BEST_FILE)
                tracker.log_artifacts(folder / TRIALS_FILE)
    return result


def _begin(digest: str, space: Space, config: Config, folder: Path) -> "tuple[Study, list[FrozenTrial]]":
    """The folder's study, and the trials that were cut off with an earlier search."""
    with locked(folder / WORKERS_LOCK):  # processes that outlived a killed search end in a moment
        study = open_study(folder)
        require_same(study, digest, space, config, folder)
        return study, take_up(study, space, config)


def _require_measurable(data: PackedFiles, space: Space) -> None:
    if VAL not in read_info(data).splits:
        raise DataError("a search needs a validation split", where=data.where, fix="data.split.val > 0")
    if "val_energy_in_mask" in space.score and not PackedDataset(data, VAL).annotated.any():
        raise DataError(
            "no validation image has a mask, so that there is no val_energy_in_mask",
            where=data.where,
            fix="look at accuracy alone: `score: {val_accuracy: 1}` in the search space",
        )


class _Workers:
    """The processes that train. One that dies costs its trial, and is replaced."""

    def __init__(self, study: "Study", job: Job, processes: int) -> None:
        self._study = study
        self._job = job
        self._context = multiprocessing.get_context("forkserver")
        self._stopped = self._context.Event()
        self._context.set_forkserver_preload([work.__module__])  # the libraries are loaded once
        self._running = {number: self._start(number) for number in range(processes)}

    def follow(self, reporter: Reporter, bar: Bar) -> None:
        """Tell of each trial that ends, until all processes have.

        Raises:
            UnavailableError: something is not there that every trial needs.
            MeglError: a process ended while it had no trial.
        """
        told: set[int] = set()
        try:
            while self._running:
                wait([worker.sentinel for worker in self._running.values()], timeout=_POLL_SECONDS)
                self._look_after()
                for attempt in ended(self._study):
                    if attempt.number not in told:
                        told.add(attempt.number)
                        bar.advance(1, best=best_score(self._study))
                        reporter.message(_line(attempt))
        finally:
            self._stopped.set()  # for one whose training is at its end and needs no signal any more
            for worker in self._running.values():
                worker.terminate()
            for worker in self._running.values():
                worker.join()

    def _start(self, number: int) -> BaseProcess:
        job = (self._job, number, self._stopped)
        worker: BaseProcess = self._context.Process(target=work, args=job, daemon=True)
        worker.start()
        return worker

    def _look_after(self) -> None:
        for number, worker in list(self._running.items()):
            if worker.exitcode is None:
                continue
            del self._running[number]
            if worker.exitcode != 0:
                self._replace(number, worker.exitcode)

    def _replace(self, number: int, code: int) -> None:
        """Start a process anew whose trial ended it."""
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        trial = trial_of(self._study, number)
        if trial is None:
            raise MeglError(
                f"a process of the search {how} while it had no trial", where=str(self._job.folder)
            )
        if code == UnavailableError.exit_code:
            raise UnavailableError(
                f"trial {trial.number} stopped: {trial.user_attrs.get('error')}",
                fix="start the same command again when it is there; the search goes on",
            )
        guess = ", perhaps for want of memory" if code == -SIGKILL else ""
        fail(self._study, trial, f"its process {how}{guess}")
        _close_run(trial, self._job)
        self._running[number] = self._start(number)


def _close_run(trial: "FrozenTrial", job: Job) -> None:
    """End the MLflow run of a trial whose process is gone."""
    if run := trial.user_attrs.get(RUN):
        end_run(job.config.registry, job.workspace, run, "KILLED")


@contextmanager
def _search_run(study: "Study", config: Config, workspace: Path, track: bool) -> "Iterator[Tracker | None]":
    """The MLflow run of the whole search, taken up again where it exists."""
    if not track:
        yield None
        return
    known = study.user_attrs.get("mlflow_run")
    with start_run(
        config.registry,
        workspace,
        name="tune",
        run_id=known,
        tags={"megl.search": "true"},
        system_metrics=False,
    ) as tracker:
        study.set_user_attr("mlflow_run", tracker.run_id)
        yield tracker


def _result(study: "Study", config: Config) -> Tuned:
    attempts = ended(study)
    complete = [attempt for attempt in attempts if attempt.state == "complete"]
    if not complete:
        errors = [attempt.error for attempt in attempts if attempt.error]
        raise MeglError(
            "no trial succeeded" + (f"; the first failed with: {errors[0]}" if errors else ""),
            fix="see that megl train works with these data and settings",
        )
    best = max(complete, key=lambda attempt: attempt.score or 0.0)
    return Tuned(best, attempts, changed(config, overrides(best.values)))


def _write(folder: Path, result: Tuned) -> None:
    head = f"# Trial {result.best.number}, score {result.best.score:.5f} on the validation split.\n"
    tree = yaml.safe_dump(result.config.model_dump(mode="json"), sort_keys=False)
    write_text(folder / BEST_FILE, head + tree)
    write_json(folder / TRIALS_FILE, [asdict(attempt) for attempt in result.attempts])


def _line(attempt: Attempt) -> str:
    score = "" if attempt.score is None else f" {attempt.score:.4f}"
    error = f": {attempt.error.splitlines()[0]}" if attempt.error else ""
    return f"trial {attempt.number} {attempt.state}{score}{error}  {' '.join(overrides(attempt.values))}"
