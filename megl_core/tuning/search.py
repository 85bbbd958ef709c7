"""The search: Optuna proposes settings, processes train with them, a journal remembers.

    <folder>/journal.log     every trial; what was stopped goes on from here
    <folder>/checkpoints/    of trainings that have not ended
    <folder>/best.yaml       the whole configuration with the best settings, for `--params`
    <folder>/trials.json     all trials

A trial's score is that of its last epoch on the validation split. Nothing else of the data is looked at.
"""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from megl_core.code import code_digest
from megl_core.config import Config, changed
from megl_core.data.contract import VAL
from megl_core.data.packed import read_info
from megl_core.errors import DataError, MeglError
from megl_core.files import write_json, write_text
from megl_core.progress import Bar, Reporter, get_reporter
from megl_core.registry.tracking import Tracker, start_run
from megl_core.tuning.space import Space, overrides
from megl_core.tuning.study import Attempt, best_score, ended, locked, open_study, require_same, take_up
from megl_core.tuning.worker import Job, work

if TYPE_CHECKING:
    from optuna import Study

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
    data: Path,
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
        data: packed data with a validation split.
        space: what to try and what to maximise.
        config: all other settings; `train.seed` is also the search's.
        folder: of the search; made if it does not exist.
        workspace: of the local MLflow store.
        processes: trials at a time.
        track: log each trial as a run below a run of the search.

    Raises:
        DataError: the data have no validation split.
        ConfigError: the folder holds a search over other data, settings or code.
        UnavailableError: another process searches in that folder.
        MeglError: no trial succeeded.
    """
    if VAL not in read_info(data).splits:
        raise DataError("a search needs a validation split", where=str(data), fix="data.split.val > 0")
    reporter = reporter or get_reporter()
    with locked(folder / "lock", wait=False):
        study = open_study(folder, config.train.seed)
        require_same(study, data, space, config, folder)
        take_up(study, space, config)
        with _search_run(study, config, workspace, track) as tracker:
            parent = tracker.run_id if tracker else None
            job = Job(
                data, space, config, folder, workspace, trials, config.train.seed, code_digest(), parent
            )
            with reporter.bar("trials", trials) as bar:
                _follow(study, job, processes, reporter, bar)
            result = _result(study, config)
            _write(folder, result)
            if tracker:
                tracker.log_metrics({"best_score": result.best.score or 0.0})
                tracker.log_artifacts(folder / BEST_FILE)
                tracker.log_artifacts(folder / TRIALS_FILE)
    return result


def _follow(study: "Study", job: Job, processes: int, reporter: Reporter, bar: Bar) -> None:
    """Run the processes and tell of each trial that ends."""
    context = multiprocessing.get_context("spawn")
    workers: list[BaseProcess] = [
        context.Process(target=work, args=(job, number), daemon=True) for number in range(processes)
    ]
    told: set[int] = set()
    try:
        for worker in workers:
            worker.start()
        while True:
            alive = any(worker.is_alive() for worker in workers)
            for attempt in ended(study):
                if attempt.number not in told:
                    told.add(attempt.number)
                    bar.advance(1, best=best_score(study))
                    reporter.message(_line(attempt))
            if not alive:
                break
            time.sleep(_POLL_SECONDS)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


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
