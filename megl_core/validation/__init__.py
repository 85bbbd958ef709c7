"""Data validation: expectations over a dataset's manifest, and a report with the offenders' pictures."""

from megl_core.validation.results import Check, Offender, ValidationResult
from megl_core.validation.run import validate

__all__ = ["Check", "Offender", "ValidationResult", "validate"]
