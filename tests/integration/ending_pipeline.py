"""A pipeline of the house's own parts whose one step does as it is told: run by test_ending.py.

python -m tests.integration.ending_pipeline <workspace> <succeed|raise|die>
"""

import sys
from pathlib import Path

from kfp import dsl, local

from components.notify.component import notify
from pipelines.tasks import settle


@dsl.component(install_kfp_package=False)
def work(how: str) -> None:
    """Succeed, raise or die."""
    import os

    if how == "raise":
        raise ValueError("no luck today")
    if how == "die":
        os._exit(137)


@dsl.pipeline(name="megl-ending")
def ending(workspace: str, how: str) -> None:
    """One step, and the step that every run ends with."""
    end = notify(workspace=workspace)
    settle(end, "notify", None)
    with dsl.ExitHandler(end, name="run"):
        work(how=how)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "pipeline" / "artifacts"))
    ending(workspace=str(folder), how=sys.argv[2])
