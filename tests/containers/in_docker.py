"""Runs a pipeline with a container of our image for each step; run by test_pipeline.py.

python -m tests.containers.in_docker <workspace> <training|ending>
"""

import json
import sys
from pathlib import Path

from docker.types import Mount
from kfp import dsl, local

from components.notify.component import notify
from components.prerequisites.component import prerequisites
from megl_core.config import load_config
from megl_core.files import canonical_json
from pipelines.run import pipeline_arguments
from pipelines.tasks import WORKSPACE, settle
from pipelines.training import training
from tests.containers.conftest import user
from tests.e2e.test_pipeline import SETTINGS


@dsl.pipeline(name="megl-ending")
def ending(workspace: str, data: str, train: str, registry: str, cluster: str) -> None:
    """What the training has before and after it: the prerequisites, and the step that every run ends with."""
    end = notify(workspace=workspace)
    settle(end, "notify", None)
    with dsl.ExitHandler(end, name="run"):
        settle(
            prerequisites(workspace=workspace, data=data, train=train, registry=registry, cluster=cluster),
            "prerequisites",
            None,
        )


def main(folder: Path, which: str) -> None:
    """Run it in containers that can write to two folders and reach nobody."""
    artifacts = folder / "artifacts"
    artifacts.mkdir()
    artifacts.chmod(0o777)
    local.init(
        local.DockerRunner(
            user=user(),
            read_only=True,
            tmpfs={"/tmp": "mode=1777"},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            network_mode="none",
            environment={"OMP_NUM_THREADS": "1"},
            mounts=[Mount(WORKSPACE, str(folder), type="bind")],
        ),
        pipeline_root=str(artifacts),
        enable_caching=False,
        raise_on_error=True,
    )
    config = load_config(overrides=SETTINGS)
    if which == "training":
        run = training(**pipeline_arguments(config, Path(WORKSPACE), "Staging"))
        (folder / "result.json").write_text(run.outputs["Output"])
    else:
        names = ("data", "train", "registry", "cluster")
        sections = config.model_dump(mode="json", include=set(names))
        ending(workspace=WORKSPACE, **{name: canonical_json(sections[name]).decode() for name in names})
        (folder / "result.json").write_text(json.dumps("ended"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
