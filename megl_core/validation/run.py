"""The validation step: a manifest in, a verdict and two reports out."""

from pathlib import Path

from megl_core import files, html
from megl_core.config import ValidationConfig
from megl_core.errors import GateError
from megl_core.validation.results import Check, ValidationResult

RESULT_JSON = "validation.json"
REPORT_HTML = "validation.html"
_NAMED_ROWS = 5
_LIMITS = {"min": "at least", "max": "at most"}


def validate(
    dataset: Path,
    manifest: Path,
    config: ValidationConfig,
    output: Path,
    labels: list[str] | None = None,
    reference: Path | None = None,
    digest: str | None = None,
) -> ValidationResult:
    """Judge a dataset by its manifest, and write `validation.json` and `validation.html`.

    Args:
        dataset: the dataset's folder; only the offenders' pictures are read from it, for the report.
        manifest: what `megl_core.data.manifest.scan` measured.
        config: severity and limits of each expectation.
        output: folder of the two reports; made where it is missing.
        labels: the labels that may occur; None: those that dataset.json declares, else those of the training
            rows.
        reference: an earlier manifest, to measure drift against; None: drift is skipped.
        digest: what the manifest's root digest must be; None: anything.

    Raises:
        GateError: an expectation of severity `fail` is not met. Both reports are written before.
        DataError: a manifest or dataset.json cannot be read.
    """
    # Imported here: Great Expectations takes seconds, and importing this module must not.
    from megl_core.data.manifest import known_labels, read_manifest, require_digest, root_digest
    from megl_core.validation.engine import run_checks
    from megl_core.validation.report import render_report
    from megl_core.validation.tables import COLUMNS, derive

    table = read_manifest(manifest, [*COLUMNS, "row_sha256"])
    earlier = read_manifest(reference, COLUMNS) if reference else None
    require_digest(table, digest, manifest)
    allowed = labels or known_labels(dataset, table)
    tables = derive(table, allowed, config.near_duplicate_bits, earlier)
    checks = run_checks(tables, allowed, config)
    result = ValidationResult(
        passed=not any(check.status == "fail" for check in checks),
        num_rows=table.num_rows,
        digest=root_digest(table),
        labels=tuple(allowed),
        checks=checks,
    )
    report = output / REPORT_HTML
    html.write_html(report, render_report(result, tables, dataset))
    files.write_json(output / RESULT_JSON, result.to_json())
    if not result.passed:
        raise _gate_error(result, report)
    return result


def _gate_error(result: ValidationResult, report: Path) -> GateError:
    failed = result.with_status("fail")
    lines = [f"validation failed: {len(failed)} of {len(result.checks)} checks"]
    lines += [f"  - {check.name}: {_first_rows(check)}" for check in failed]
    return GateError(
        "\n".join(lines),
        where=str(report),
        fix="correct the rows named in the report, or change the severity or limits under `validation`",
    )


def _first_rows(check: Check) -> str:
    if not check.offenders:
        limits = (
            f"{_LIMITS[end]} {value:g}" for end, value in (check.bound or {}).items() if value is not None
        )
        return f"observed {check.observed}, allowed {' and '.join(limits)}"
    named = "; ".join(f"{offender}: {offender.detail}" for offender in check.offenders[:_NAMED_ROWS])
    more = check.num_offenders - len(check.offenders[:_NAMED_ROWS])
    return f"{named}; and {more} more" if more else named
