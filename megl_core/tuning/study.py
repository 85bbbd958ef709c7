"""The study: what has been tried, in a journal that several processes write and that outlives them."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megl_core.code import code_digest
from megl_core.config import Config, changed
from megl_core.errors import ConfigError, UnavailableError
from megl_core.files import refuse_to_replace_others
from megl_core.locks import locked
from megl_core.tuning.space import Choices, Range, Space, Value, is_near_whole, overrides

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

JOURNAL = "journal.log"
_LOCK = "lock"
_NAME = "megl"
_STOPPED = "stopped"
"""Attribute of the study: trials that were cut off with their search; their settings are tried again."""
_ERRORS = "errors"
"""Attribute of the study: why trials failed whose processes could not say so, by number."""
_PROCESS = "process"
_ORIGIN = "origin"


@dataclass(frozen=True)
class Attempt:
    """One trial that ended.

    Attributes:
        state: `complete`, `pruned` (stopped early, for it was worse than others at that epoch) or `failed`.
        score: of its last epoch; None where there was none.
        values: the settings that were tried, by dotted name.
        error: why it failed.
    """

    number: int
    state: str
    score: float | None
    values: dict[str, Value]
    error: str = ""


def open_study(folder: Path) -> "Study":
    """The study of a folder, made where there is none."""
    import optuna
    from optuna.storages import JournalStorage

    from megl_core.tuning.journal import Journal

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = JournalStorage(Journal(folder))
    return optuna.create_study(
        study_name=_NAME,
        storage=storage,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
        direction="maximize",
        load_if_exists=True,
    )


def require_same(study: "Study", digest: str, space: Space, config: Config, folder: Path) -> None:
    """Trials of other data or settings are no neighbours in one search."""
    own = changed(config, overrides({name: v.examples[0] for name, v in space.parameters.items()}))
    tree = own.model_dump(mode="json")
    this = {
        "data": digest,
        "space": space.model_dump(mode="json"),
        "code": code_digest(),
        "settings": {name: tree[name] for name in ("model", "objective", "train")},
    }
    known = study.user_attrs.get("about")
    if known is None:
        study.set_user_attr("about", this)
    elif known != this:
        changed_parts = [name for name in this if known.get(name) != this[name]]
        raise ConfigError(
            f"the search in this folder is of other {' and '.join(changed_parts)}",
            where=str(folder),
            fix="give another folder: --output",
        )


def take_up(study: "Study", space: Space, config: Config) -> "list[FrozenTrial]":
    """Queue the configuration's own values, and those of the trials that were cut off; returns these."""
    tree = config.model_dump(mode="json")
    own = {name: _value_at(tree, name) for name in space.parameters}
    if not study.get_trials(deepcopy=False) and all(
        _holds(space.parameters[name], value) for name, value in own.items()
    ):
        study.enqueue_trial(own)
    cut_off = _running(study)
    queued = {origin(trial) for trial in study.get_trials(deepcopy=False, states=(_state("WAITING"),))}
    for trial in cut_off:  # queued before it is told: this, too, may be killed in between
        values = trial.system_attrs.get("fixed_params", {}) | trial.params
        if values.keys() == space.parameters.keys() and origin(trial) not in queued:
            study.enqueue_trial(values, user_attrs={_ORIGIN: origin(trial)})
        study.set_user_attr(_STOPPED, [*study.user_attrs.get(_STOPPED, []), trial.number])
        study.tell(trial.number, state=_state("FAIL"))
    return cut_off


def origin(trial: "Trial | FrozenTrial") -> int:
    """The number that a trial had when its settings were first tried."""
    return int(trial.user_attrs.get(_ORIGIN, trial.number))


def trial_of(study: "Study", process: int) -> "FrozenTrial | None":
    """What a process of this search is trying."""
    own = (trial for trial in _running(study) if trial.user_attrs.get(_PROCESS) == process)
    return next(own, None)


def fail(study: "Study", trial: "FrozenTrial", error: str) -> None:
    """End a trial for a process that cannot do so itself any more."""
    study.set_user_attr(_ERRORS, study.user_attrs.get(_ERRORS, {}) | {str(trial.number): error})
    study.tell(trial.number, state=_state("FAIL"))


def _running(study: "Study") -> "list[FrozenTrial]":
    return study.get_trials(deepcopy=False, states=(_state("RUNNING"),))


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _value_at(tree: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        tree = tree[part]
    return tree


def _holds(values: Range | Choices, value: Any) -> bool:
    if isinstance(values, Choices):
        return value in values.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    on_grid = values.step is None or is_near_whole((value - values.low) / values.step)
    return values.low <= value <= values.high and on_grid


def _trials(study: "Study") -> "list[FrozenTrial]":
    """All trials but those that were cut off."""
    stopped = set(study.user_attrs.get(_STOPPED, []))
    return [trial for trial in study.get_trials(deepcopy=False) if trial.number not in stopped]


def ended(study: "Study") -> list[Attempt]:
    """The trials that ended, in their order."""
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    errors = study.user_attrs.get(_ERRORS, {})
    return [
        Attempt(
            trial.number,
            names[trial.state.name],
            _score(trial),
            dict(trial.params),
            str(trial.user_attrs.get("error", errors.get(str(trial.number), ""))),
        )
        for trial in _trials(study)
        if trial.state.name in names
    ]


def _score(trial: "FrozenTrial") -> float | None:
    if trial.value is not None:
        return float(trial.value)
    seen = trial.intermediate_values
    return float(seen[max(seen)]) if seen else None


def best_score(study: "Study") -> float:
    scores = [one.score for one in ended(study) if one.state == "complete" and one.score is not None]
    return max(scores, default=float("nan"))


def next_trial(study: "Study", folder: Path, wanted: int, seed: int, process: int) -> "Trial | None":
    """A new trial for a process, or None where as many as were asked for have begun.

    What is proposed depends on the seed and the trials before: a search that was stopped goes on as if it
    had not been.
    """
    import optuna

    with locked(folder / "next.lock"):
        begun = sum(trial.state.name != "WAITING" for trial in _trials(study))
        if begun >= wanted:
            return None
        study.sampler = optuna.samplers.TPESampler(seed=seed + begun)
        trial = study.ask()
        trial.set_user_attr(_PROCESS, process)
        return trial


def suggest(trial: "Trial", name: str, values: Range | Choices) -> Value:
    if isinstance(values, Choices):
        chosen: Value = trial.suggest_categorical(name, values.choices)
        return chosen
    if values.is_whole:
        step = int(values.step or 1)
        return int(trial.suggest_int(name, int(values.low), int(values.high), step=step, log=values.log))
    return float(trial.suggest_float(name, values.low, values.high, step=values.step, log=values.log))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Search in a folder in which nobody else searches.

    Raises:
        UnavailableError: another process does.
        MeglError: the folder holds something else than a search.
    """
    if not (folder / _LOCK).is_file():  # which a search writes first
        refuse_to_replace_others(folder, JOURNAL)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / _LOCK, wait=False))
        except BlockingIOError:
            raise UnavailableError(
                "another process searches here",
                where=str(folder),
                fix="wait for it, or use another folder",
            ) from None
        yield
