"""Checkpoints in the exchange, so that what a machine had saved outlives the machine."""

from pathlib import Path

from megl_core.errors import DataError, IntegrityError, UnavailableError
from megl_core.progress import get_reporter
from megl_core.remote.exchange import Exchange

CHECKPOINTS = "checkpoints"


class CheckpointCopies:
    """Copies each checkpoint to the exchange and keeps the newest `keep` there."""

    def __init__(self, training: Exchange, keep: int) -> None:
        self.training = training
        self.keep = keep

    def save(self, checkpoint: Path) -> None:
        """Copy `<run>/step-<n>`. An exchange that is away for a while costs a message, not the training."""
        run = f"{CHECKPOINTS}/{checkpoint.parent.name}"
        try:
            # Of this step and later ones: damaged, since this run was continued from one before them.
            self._remove(run, [name for name in self.training.folders(run) if name >= checkpoint.name])
            self.training.put(f"{run}/{checkpoint.name}", checkpoint)
            self._remove(run, self.training.folders(run)[: -self.keep])
        except UnavailableError as error:
            get_reporter().message(f"{checkpoint.name} was not copied to the exchange: {error}")

    def _remove(self, run: str, names: list[str]) -> None:
        for name in names:
            self.training.remove(f"{run}/{name}")


def fetch_newest(training: Exchange, folder: Path) -> None:
    """Copy the newest complete checkpoint of each run to `folder`, as `<run>/step-<n>`."""
    for run in training.folders(CHECKPOINTS):
        for name in reversed(training.folders(f"{CHECKPOINTS}/{run}")):
            try:
                training.fetch(f"{CHECKPOINTS}/{run}/{name}", folder / run / name)
            except (DataError, IntegrityError) as error:
                get_reporter().message(f"the copy of {name} is not used: {error.what}; trying the one before")
                continue
            get_reporter().message(f"fetched {name} from the exchange")
            break
