"""Look whether everything is there that the run will need."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prerequisites(
    workspace: str,
    data: str,
    train: str,
    registry: str,
    cluster: str,
    storage: str,
    checked: dsl.Output[dsl.Artifact],
    gpus: int = 0,
    free_gib: float = 1.0,
) -> NamedTuple("Checked", [("code", str), ("store", str)]):
    """Check GPUs, versions, services, disk and workspace, and name all that is wrong at once.

    Args:
        workspace: Folder that must be writable.
        data: The `data` section of the configuration, as JSON.
        train: The `train` section of the configuration, as JSON.
        registry: The `registry` section of the configuration, as JSON.
        cluster: The `cluster` section of the configuration, as JSON.
        storage: The `storage` section of the configuration, as JSON.
        checked: File with every finding, as JSON.
        gpus: GPUs that this pod must have been granted, as the training's will be.
        free_gib: What the disks of workspace and temporary files must have left, in GiB.

    Returns:
        code: Digest of the code in this image. store: Digest of the tracking server's address.
    """
    from pathlib import Path

    from megl_core import config, progress
    from megl_core.operations.prerequisites import prepare

    with progress.step("prerequisites"):
        settings = config.read_sections(
            data=data, train=train, registry=registry, cluster=cluster, storage=storage
        )
        found = prepare(settings, Path(workspace), Path(checked.path), gpus=gpus, free_gib=free_gib)
    return (found.code, found.store)
