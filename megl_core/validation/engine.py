"""Runs the expectations through Great Expectations and reads its verdicts back as `Check`s."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from megl_core.config import Bound, Severity, ValidationConfig
from megl_core.validation.expectations import EXPECTATIONS, Rule
from megl_core.validation.results import Check, Offender
from megl_core.validation.tables import WHY_EMPTY

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations import Expectation

Tables = Mapping[str, pd.DataFrame]


def run_checks(tables: Tables, labels: Sequence[str], config: ValidationConfig) -> tuple[Check, ...]:
    """Every expectation of the registry, in its order; those that cannot run are there with the reason."""
    skipped = {name: reason for name in EXPECTATIONS if (reason := _skip_reason(name, tables, config))}
    verdicts = _judge([name for name in EXPECTATIONS if name not in skipped], tables, labels, config)
    return tuple(
        _skipped(name, skipped[name], config)
        if name in skipped
        else _check(name, verdicts[name], tables, config)
        for name in EXPECTATIONS
    )


def _skipped(name: str, reason: str, config: ValidationConfig) -> Check:
    severity, bound = _settings(name, config)
    return Check(
        name=name,
        severity=severity,
        passed=True,
        observed=None,
        bound=_limits(bound),
        num_offenders=0,
        offenders=(),
        explanation=EXPECTATIONS[name].explanation,
        skipped=reason,
    )


def _check(
    name: str, verdict: "ExpectationValidationResult", tables: Tables, config: ValidationConfig
) -> Check:
    rule = EXPECTATIONS[name]
    severity, bound = _settings(name, config)
    offending = _offending_rows(rule, verdict, tables[rule.table])
    # Several rationales or sides of one sample may offend: they count, and are told of, as one.
    keys = [key for key in ("id", "line") if key in offending]
    groups = offending.groupby(keys, sort=False, dropna=False).ngroup()
    shown = offending[groups < config.max_offenders]
    return Check(
        name=name,
        severity=severity,
        passed=bool(verdict.success),
        observed=_observed(rule, verdict, tables[rule.table]),
        bound=_limits(bound),
        num_offenders=int(groups.max()) + 1 if len(groups) else 0,
        offenders=tuple(_offenders(rule, shown, tables["samples"])),
        explanation=rule.explanation,
    )


def _settings(name: str, config: ValidationConfig) -> tuple[Severity, Bound | None]:
    setting = getattr(config, name)
    if isinstance(setting, int):  # min_rows: the one expectation that cannot be softened
        return "fail", Bound(min=setting)
    if isinstance(setting, Bound):
        return setting.severity, setting
    return setting, None


def _limits(bound: Bound | None) -> dict[str, float | None] | None:
    return None if bound is None else {"min": bound.min, "max": bound.max}


def _skip_reason(name: str, tables: Tables, config: ValidationConfig) -> str | None:
    if _settings(name, config)[0] == "off":
        return "turned off in the configuration"
    if name == "min_rows":
        return None
    table = "classes" if name == "labels_declared" else EXPECTATIONS[name].table
    return WHY_EMPTY[table] if tables[table].empty else None


def _judge(
    names: Sequence[str], tables: Tables, labels: Sequence[str], config: ValidationConfig
) -> dict[str, "ExpectationValidationResult"]:
    """Great Expectations' verdict on each named expectation: one suite for each table."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )
    source = context.data_sources.add_pandas("manifest")
    verdicts: dict[str, ExpectationValidationResult] = {}
    for table in dict.fromkeys(EXPECTATIONS[name].table for name in names):
        suite = gx.ExpectationSuite(name=table)
        for name in names:
            if EXPECTATIONS[name].table == table:
                suite.add_expectation(_expectation(name, labels, _settings(name, config)[1]))
        asset = source.add_dataframe_asset(table)
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": tables[table]})
        results = batch.validate(
            suite, result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False}
        )
        verdicts |= {result.expectation_config.meta["check"]: _ran(result) for result in results.results}
    return verdicts


def _expectation(name: str, labels: Sequence[str], bound: Bound | None) -> "Expectation":
    import great_expectations.expectations as gxe

    rule = EXPECTATIONS[name]
    arguments: dict[str, Any] = dict(rule.columns)
    if bound is not None:
        arguments |= {"min_value": bound.min, "max_value": bound.max}
    if name == "labels_declared":
        arguments["value_set"] = list(labels)
    if "column_A" in arguments:
        arguments["ignore_row_if"] = "either_value_is_missing"
    return getattr(gxe, rule.expectation)(**arguments, meta={"check": name})


def _ran(result: "ExpectationValidationResult") -> "ExpectationValidationResult":
    """The same result; an exception inside an expectation is no verdict on the data."""
    details = result.exception_info
    errors = [details] if "raised_exception" in details else list(details.values())
    if any(error["raised_exception"] for error in errors):
        raise RuntimeError(f"{result.expectation_config.meta['check']} did not run: {errors}")
    return result


def _offending_rows(rule: Rule, verdict: "ExpectationValidationResult", table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `table` that break the expectation; for a share, those that make it up."""
    if verdict.success or rule.expectation == "ExpectTableRowCountToBeBetween":
        return table.head(0)
    if rule.expectation == "ExpectColumnMeanToBeBetween":
        return table[table[rule.column] > 0]
    return table.loc[sorted(verdict.result["unexpected_index_list"])]


def _observed(rule: Rule, verdict: "ExpectationValidationResult", table: pd.DataFrame) -> Any:
    result = verdict.result
    if "observed_value" in result:
        return _plain(result["observed_value"])
    if "line" not in table:
        return dict(zip(table["id"], table[rule.column].tolist(), strict=True))
    if rule.expectation == "ExpectColumnValuesToBeBetween":
        values = table[rule.column].dropna()
        return {"min": _plain(values.min()), "max": _plain(values.max())} if len(values) else None
    return int(result["unexpected_count"])


def _plain(value: Any) -> Any:
    """A NumPy number as Python's own."""
    return value.item() if hasattr(value, "item") else value


def _offenders(rule: Rule, offending: pd.DataFrame, samples: pd.DataFrame) -> list[Offender]:
    """One for each sample, in file order, its details joined."""
    merged: dict[tuple[str, int | None], Offender] = {}
    for offender in _describe(rule, offending, samples.set_index("line", drop=False)):
        key = (offender.id, offender.line)
        if key in merged:
            offender = replace(offender, detail=f"{merged[key].detail}; {offender.detail}")  # noqa: PLW2901
        merged[key] = offender
    return list(merged.values())


def _describe(rule: Rule, offending: pd.DataFrame, by_line: pd.DataFrame) -> Iterator[Offender]:
    for fields in offending.to_dict("records"):
        related = int(fields[rule.related]) if rule.related else None
        if related is not None:
            fields["related"] = by_line.loc[related]
        yield Offender(
            id=str(fields["id"]),
            line=int(fields["line"]) if "line" in fields else None,
            detail=rule.detail.format_map(fields),
            related_line=related,
        )
