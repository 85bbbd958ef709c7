"""Find out whether there is anything new to train on."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def novelty(
    manifest: dsl.Input[dsl.Dataset],
    digest: str,
    workspace: str,
    registry: str,
    retraining: str,
    steps: list,
    reference: dsl.Output[dsl.Dataset],
) -> NamedTuple("Novelty", [("Output", bool), ("reference_digest", str)]):
    """Compare the data with those that the champion was trained on.

    Args:
        manifest: The data's manifest.
        digest: Root digest of the data.
        workspace: Folder of manifests and of the local registry.
        registry: The `registry` section of the configuration, as JSON.
        retraining: The `retraining` section of the configuration, as JSON.
        steps: The steps that the run does without if there is nothing new.
        reference: Folder with the manifest of the champion's data; empty where there is none.

    Returns:
        Output: whether to train, reference_digest: SHA-256 of the champion's manifest, or an empty string.
    """
    from pathlib import Path

    from megl_core import config, progress
    from megl_core.lineage.novelty import look
    from megl_core.operations.outcome import write_result
    from megl_core.provenance import source

    with progress.step("novelty"):
        settings = config.read_sections(registry=registry, retraining=retraining)
        found = look(Path(manifest.path), digest, settings, Path(workspace), Path(reference.path))
        if not found.train:
            progress.skip(*steps)
            result = {
                "model_name": settings.registry.model_name,
                "trained": False,
                "novelty": found.to_json(),
            }
            write_result(Path(workspace), source.pipeline_run(), result)
    return (found.train, found.reference_digest)
