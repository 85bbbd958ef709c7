"""A trained model as an MLflow model that explains pictures wherever mlflow-skinny and torch are.

It carries all it needs: the weights, the reports, and the code of `megl_core` that made them, so that
loading it needs no MEGL installation, and another version of MEGL cannot change its answers.
"""

import importlib.metadata
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import megl_core
from megl_core.data.images import encode_png
from megl_core.explain.model_card import CARD_FILE, UNKNOWN_LICENCE, model_card

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

MODEL_ARTIFACT = "model"
EVALUATION_ARTIFACT = "evaluation.json"
GATE_ARTIFACT = "gate.json"
CARD_ARTIFACT = CARD_FILE

# What the serving model imports. Everything else that MEGL installs stays out of a serving image.
SERVING_PACKAGES = (
    "mlflow-skinny",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


def signature() -> "ModelSignature":
    """A column `image` in; label, probability, probabilities, rationale and heat map (grey PNG) out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema(
            [
                ColSpec("string", "label"),
                ColSpec("double", "probability"),
                ColSpec("string", "probabilities"),
                ColSpec("string", "rationale"),
                ColSpec("binary", "heat_map"),
            ]
        ),
    )


def input_example() -> Any:
    """A DataFrame with one small picture: a bright disc on a dark ground."""
    import pandas as pd

    rows, columns = np.mgrid[:32, :32]
    disc = (rows - 15.5) ** 2 + (columns - 15.5) ** 2 < 100
    return pd.DataFrame({"image": [encode_png(np.where(disc, 220, 40).astype(np.uint8))]})


def requirements() -> list[str]:
    """The serving packages as they are installed here. A local build (`2.13.0+cpu`) goes by its release."""
    return [
        f"{package}=={importlib.metadata.version(package).partition('+')[0]}" for package in SERVING_PACKAGES
    ]


def save(
    model: Path,
    reports: Mapping[str, Path],
    target: Path,
    *,
    run_id: str,
    model_id: str,
    licence: str = UNKNOWN_LICENCE,
) -> None:
    """Write the MLflow model to `target` with a model card, and load and run it once to see that it works.

    Args:
        model: model folder as the training step writes it.
        reports: `{name in the artifacts: file}`, the evaluation among them; a name may have a folder.
        target: a folder that does not exist.
        run_id: the run that made the model.
        model_id: MLflow's id of the logged model.
        licence: of the weights, for the card.
    """
    from mlflow import pyfunc
    from mlflow.models import Model

    example = input_example()
    with tempfile.TemporaryDirectory() as staging:
        artifacts = _stage({MODEL_ARTIFACT: model, **reports}, Path(staging))
        card = Path(staging) / CARD_ARTIFACT
        card.write_text(model_card(model, reports[EVALUATION_ARTIFACT], licence), encoding="utf-8")
        artifacts[CARD_ARTIFACT] = str(card)
        pyfunc.save_model(
            str(target),
            python_model=str(Path(__file__).with_name("serving_model.py")),
            artifacts=artifacts,
            code_paths=[str(Path(megl_core.__file__).parent)],
            pip_requirements=requirements(),
            signature=signature(),
            input_example=example,
            model_config={"device": "cpu"},
            mlflow_model=Model(run_id=run_id, model_id=model_id),
        )
    pyfunc.load_model(str(target)).predict(example)
    for compiled in list(target.rglob("__pycache__")):  # left by that look
        shutil.rmtree(compiled)


def _stage(sources: Mapping[str, Path], staging: Path) -> dict[str, str]:
    """MLflow names an artifact after its path's last part: copy each to the name that it shall have."""
    for name, source in sources.items():
        target = staging / name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
    return {path.name: str(path) for path in staging.iterdir()}
