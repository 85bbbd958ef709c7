"""How far the make-up of a dataset has moved from that of a reference: the population stability index."""

from typing import Any

import numpy as np
import pandas as pd

DISTRIBUTIONS = {"labels": "label", "mask area": "mask_area", "text length": "words"}
"""What is compared: name and column."""


def drift_table(current: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """One row (`id`, `psi`) for each distribution that at least one of the two sets has."""
    rows = []
    for name, column in DISTRIBUTIONS.items():
        if current[column].notna().any() or reference[column].notna().any():
            rows.append({"id": name, "psi": population_stability(current[column], reference[column])})
    return pd.DataFrame(rows, columns=["id", "psi"])


def population_stability(current: "pd.Series[Any]", reference: "pd.Series[Any]") -> float:
    """PSI = sum over bins of (p - q) ln(p / q), with p and q the bin's shares in the two sets; at least 0.

    Numbers fall into bins between the deciles of the reference (a value that fills a decile or more is a
    bin of its own), words into a bin each, missing values into one more bin. Half a row is added to each
    bin that occurs in either set, so that an empty one does not make the sum infinite.

    Below 0.1 is commonly read as stable, above 0.2 as a shift.
    """
    if pd.api.types.is_numeric_dtype(reference):
        current, reference = _to_bins(current, reference)
    counts = pd.DataFrame(
        {"current": current.value_counts(dropna=False), "reference": reference.value_counts(dropna=False)}
    )
    counts = counts.fillna(0.0) + 0.5
    p, q = (counts[column] / counts[column].sum() for column in ("current", "reference"))
    return float(((p - q) * np.log(p / q)).sum())


def _to_bins(
    current: "pd.Series[float]", reference: "pd.Series[float]"
) -> tuple["pd.Series[float]", "pd.Series[float]"]:
    """Both series with each number replaced by the number of its bin; missing values stay missing."""
    known = reference.dropna()
    deciles = known.quantile(np.arange(1, 10) / 10).to_numpy() if len(known) else np.empty(0)
    edges, repeats = np.unique(deciles, return_counts=True)
    edges = np.sort(np.append(edges, np.nextafter(edges[repeats > 1], np.inf)))

    def bins(values: "pd.Series[float]") -> "pd.Series[float]":
        numbers = pd.Series(np.searchsorted(edges, values, side="right"), dtype="Float64")
        return numbers.where(values.notna().to_numpy())

    return bins(current), bins(reference)
