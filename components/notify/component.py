"""Tell how a run ended, and clean up: the step that every run ends with."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def notify(status: dsl.PipelineTaskFinalStatus, workspace: str, keep_days: float = 14.0) -> None:
    """Tell how the run ended, in the log and to a webhook, and remove what earlier runs left.

    The webhook is what MEGL_WEBHOOK_URL names; without one the log is all. This step never turns a
    run red.

    Args:
        status: How the steps before ended; KFP fills it in.
        workspace: Folder in which the run left its result.
        keep_days: Checkpoints of given up trainings and unused artifacts are kept for so many days.
    """
    from pathlib import Path

    from megl_core import progress
    from megl_core.operations.ending import conclude

    with progress.step("notify"):
        conclude(Path(workspace), status.state, status.error_message or "", keep_days=keep_days)
