"""The file that MLflow runs to load a registered model ("models from code"); it is copied into the model.

Input: a column `image` with encoded image files, as bytes or as base64 text (JSON cannot hold bytes).
Output: one row for each image, as `packaging.signature` lists it.
"""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from PIL import Image

from megl_core.data.images import decode_image, encode_png
from megl_core.errors import DataError, IntegrityError
from megl_core.explain.explanation import Explained
from megl_core.explain.many import explain_each
from megl_core.files import read_json
from megl_core.models.megl import MEGL
from megl_core.provenance.signing import find_verifier, open_envelope
from megl_core.provenance.statement import PROVENANCE_FILE, check_subjects


class ExplainedClassifier(mlflow.pyfunc.PythonModel):
    """Class, probabilities, rationale and heat map of pictures.

    `mlflow.pyfunc.load_model(uri, model_config={"device": "cuda"})` chooses another device than the CPU.
    """

    def load_context(self, context: Any) -> None:
        """Load the weights (safetensors) from the model's artifacts, once they are those that were trained.

        Raises:
            IntegrityError: they are not, or `MEGL_PUBLIC_KEY` is set and that key did not sign for them.
        """
        _check(context.artifacts)
        self._model = MEGL.from_pretrained(context.artifacts["model"], context.model_config["device"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ARG002
        """Explain every picture.

        Raises:
            DataError: cells that hold no image; all of them are named.
        """
        pictures = _pictures(model_input["image"].tolist())
        return pd.DataFrame([_row(explained) for explained in explain_each(self._model, pictures)])


def _check(artifacts: dict[str, str]) -> None:
    verifier = find_verifier()
    path = artifacts.get(PROVENANCE_FILE)
    if path is None:
        if verifier is not None:
            raise IntegrityError("the model has no provenance, and a public key is configured")
        return
    statement = open_envelope(read_json(Path(path)), verifier, where=PROVENANCE_FILE)
    check_subjects(statement, Path(artifacts["model"]), where="the served model")


def _pictures(cells: list[Any]) -> list[Image.Image]:
    pictures, problems = [], []
    for number, cell in enumerate(cells):
        try:
            pictures.append(decode_image(_bytes(cell)))
        except DataError as error:
            problems.append(f"row {number}: {error.what}")
    if problems:
        raise DataError(f"{len(problems)} of {len(cells)} rows hold no image", problems=problems)
    return pictures


def _bytes(cell: Any) -> bytes:
    if isinstance(cell, str):
        try:
            return base64.b64decode("".join(cell.split()), validate=True)
        except (binascii.Error, ValueError):
            raise DataError("not base64") from None
    try:
        return bytes(memoryview(cell))
    except TypeError:
        raise DataError(f"neither bytes nor base64 text, but {type(cell).__name__}") from None


def _row(explained: Explained) -> dict[str, Any]:
    grey = (explained.heat_map * 255).round().clip(0, 255).astype("uint8")
    return {
        "label": explained.label,
        "probability": explained.probability,
        "probabilities": json.dumps(explained.probabilities, ensure_ascii=False),
        "rationale": explained.rationale,
        "heat_map": encode_png(grey),
    }


mlflow.models.set_model(ExplainedClassifier())
