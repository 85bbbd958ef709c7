"""What is done when a run has ended, whichever way it did."""

from pathlib import Path

from megl_core.operations.cleanup import clean_up
from megl_core.operations.outcome import read_outcome, tell
from megl_core.progress import get_reporter
from megl_core.provenance.source import pipeline_run


def conclude(workspace: Path, state: str, error: str = "", *, keep_days: float = 14.0) -> None:
    """Tell how this run ended, and clean up. Whatever goes wrong is told and raised nowhere.

    Args:
        state: as the pipeline's server calls it, such as SUCCEEDED.
        error: what the server says of the failure.
        keep_days: see `clean_up`.
    """
    for doing, act in (
        ("tell of the run", lambda: tell(read_outcome(workspace, pipeline_run(), state, error))),
        ("clean up", lambda: clean_up(workspace, keep_days)),
    ):
        try:
            act()
        except Exception as problem:  # the run has ended: nothing here may change how
            get_reporter().message(f"could not {doing}: {type(problem).__name__}: {problem}")
