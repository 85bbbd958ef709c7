"""Errors a user can cause, each with an exit code that scripts can rely on.

| exit code | class              | meaning                                             |
|-----------|--------------------|-----------------------------------------------------|
| 2         | `ConfigError`      | a parameter or argument is wrong                    |
| 3         | `DataError`        | input data is missing, broken or unsafe             |
| 4         | `GateError`        | a gate (validation, promotion) said no              |
| 5         | `UnavailableError` | a service, package or device is not there           |
| 6         | `IntegrityError`   | bytes are not the bytes that were recorded          |
"""

from collections.abc import Sequence


class MeglError(Exception):
    """What is wrong, where, and what to do about it; printed without a traceback."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        parts = [what]
        if where:
            parts.append(f"  where: {where}")
        if fix:
            parts.append(f"  fix:   {fix}")
        super().__init__("\n".join(parts))


class ConfigError(MeglError):
    exit_code = 2


class DataError(MeglError):
    """Input data that cannot be used; `problems` lists every offending row found in one pass."""

    exit_code = 3
    max_shown = 20

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        fix: str | None = None,
        problems: Sequence[str] = (),
    ) -> None:
        self.problems = tuple(problems)
        shown = [f"  - {problem}" for problem in self.problems[: self.max_shown]]
        if len(self.problems) > self.max_shown:
            shown.append(f"  ... and {len(self.problems) - self.max_shown} more")
        super().__init__("\n".join([what, *shown]), where=where, fix=fix)


class GateError(MeglError):
    exit_code = 4


class UnavailableError(MeglError):
    exit_code = 5


class IntegrityError(MeglError):
    exit_code = 6
