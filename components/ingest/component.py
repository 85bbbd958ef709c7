"""Bring a dataset into the workspace, measure it and track it with DVC."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(
    workspace: str,
    data: str,
    storage: str,
    dataset: dsl.Output[dsl.Dataset],
    manifest: dsl.Output[dsl.Dataset],
) -> NamedTuple("Ingested", [("digest", str), ("labels", list), ("num_samples", int), ("dvc", str)]):
    """Import a dataset, or generate it, and give it a digest and a DVC version.

    Args:
        workspace: Folder that keeps datasets and their DVC repository.
        data: The `data` section of the configuration, as JSON.
        storage: The `storage` section of the configuration, as JSON.
        dataset: The dataset folder, in the workspace.
        manifest: One row for every sample, with digests and measurements.

    Returns:
        digest: Root digest of the data.
        labels: In the order of the classes.
        num_samples: Rows.
        dvc: DVC version of the folder and what it was imported from, as JSON.
    """
    import json
    from pathlib import Path

    from megl_core import config, progress
    from megl_core.data.ingest import ingest as step

    with progress.step("ingest"):
        settings = config.read_sections(data=data, storage=storage)
        result = step(settings.data, Path(workspace), settings.storage)
    dataset.uri, manifest.uri = str(result.dataset), str(result.manifest)
    return (result.digest, result.labels, result.num_samples, json.dumps(result.version, sort_keys=True))
