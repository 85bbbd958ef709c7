"""Pack a dataset into memory-mapped shards, re-hashing every byte on the way."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def pack(
    dataset: dsl.Input[dsl.Dataset],
    manifest: dsl.Input[dsl.Dataset],
    digest: str,
    code: str,
    labels: list,
    pack: str,
    packed: dsl.Output[dsl.Dataset],
) -> str:
    """Pack a dataset into Arrow shards.

    Args:
        dataset: The dataset folder.
        manifest: Its manifest.
        digest: Root digest of the data.
        code: Digest of the code.
        labels: Labels in the order of the classes.
        pack: The `pack` section of the configuration, as JSON.
        packed: Folder with shards, manifest and dataset.json.

    Returns:
        Digest of what was packed.
    """
    from pathlib import Path

    from megl_core import config, progress
    from megl_core.data.pack import pack as step

    with progress.step("pack"):
        settings = config.read_sections(pack=pack).pack
        return step(
            Path(dataset.path), Path(manifest.path), Path(packed.path), settings, labels, digest=digest
        ).digest
