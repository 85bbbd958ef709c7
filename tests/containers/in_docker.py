"""Runs a pipeline with a container of our image for each step; run by test_pipeline.py.

python -m tests.containers.in_docker <workspace>
"""

import sys
from pathlib import Path

from docker.types import Mount
from kfp import local

from megl_core.config import load_config
from megl_core.provenance.source import PIPELINE_RUN_VARIABLE
from pipelines.catalog import PIPELINES, arguments
from pipelines.tasks import WORKSPACE
from tests.containers.conftest import user
from tests.e2e.test_pipeline import SETTINGS

RUN = "in-docker"


def main(folder: Path) -> None:
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
            environment={"OMP_NUM_THREADS": "1", PIPELINE_RUN_VARIABLE: RUN},
            mounts=[Mount(WORKSPACE, str(folder), type="bind")],
        ),
        pipeline_root=str(artifacts),
        enable_caching=False,
        raise_on_error=True,
    )
    pipeline = PIPELINES["retraining"]  # the one with every component
    pipeline.build(None)(**arguments(pipeline, load_config(overrides=SETTINGS), Path(WORKSPACE)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
