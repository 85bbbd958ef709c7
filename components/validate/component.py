"""Check the manifest against the expectations, and stop the pipeline where they do not hold."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def validate(
    dataset: dsl.Input[dsl.Dataset],
    manifest: dsl.Input[dsl.Dataset],
    digest: str,
    code: str,
    labels: list,
    validation: str,
    report: dsl.Output[dsl.Artifact],
    reference: dsl.Input[dsl.Dataset] = None,
    reference_digest: str = "",
) -> bool:
    """Validate a dataset with Great Expectations over its manifest.

    Args:
        dataset: The dataset folder.
        manifest: Its manifest.
        digest: Root digest of the data.
        code: Digest of the code.
        labels: Labels that may occur.
        validation: The `validation` section of the configuration, as JSON.
        report: Folder with validation.json and validation.html.
        reference: Folder with an earlier manifest, to measure drift against; an empty one or none: no drift.
        reference_digest: SHA-256 of that manifest, or an empty string.

    Returns:
        True; a failed expectation fails the step.
    """
    from pathlib import Path

    from megl_core import config, progress
    from megl_core.validation import validate as step

    with progress.step("validate"):
        settings = config.read_sections(validation=validation).validation
        earlier = next(Path(reference.path).glob("*.parquet"), None) if reference else None
        return step(
            Path(dataset.path),
            Path(manifest.path),
            settings,
            Path(report.path),
            labels,
            reference=earlier,
            digest=digest,
        ).passed
