"""Flat files for `dvc metrics` and `dvc plots`, made of an evaluation's folder.

python scripts/dvc_views.py EVALUATION METRICS_JSON CONFUSION_CSV
"""

import csv
import io
import sys
from pathlib import Path

from megl_core.evaluation import PREDICTIONS_FILE, read_evaluation
from megl_core.files import write_json, write_text


def main(evaluation: Path, metrics: Path, confusion: Path) -> None:
    """Write `{split: {metric: value}}`, and true and predicted class of each sample of the main split."""
    import pyarrow.parquet as pq

    measured = read_evaluation(evaluation)
    write_json(metrics, measured["metrics"])
    rows = pq.read_table(
        evaluation / PREDICTIONS_FILE,
        columns=["label", "predicted"],
        filters=[("split", "=", measured["primary_split"])],
    ).to_pylist()
    text = io.StringIO()
    writer = csv.DictWriter(text, ["label", "predicted"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(confusion, text.getvalue())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
