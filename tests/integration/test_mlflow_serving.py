"""A registered model answers: in this process, over HTTP, and where only the serving packages are."""

import base64
import io
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from megl_core.config import RegistryConfig
from megl_core.errors import DataError
from megl_core.explain.explanation import Explained
from megl_core.models.megl import MEGL
from megl_core.registry import packaging
from megl_core.registry.tracking import start_run
from tests.conftest import REPOSITORY
from tests.integration.conftest import MLflowServer, SmallModel, free_port, stop_group, wait_until_healthy


def picture() -> Image.Image:
    """40 x 24 pixels, neither square nor of the model's size."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def expected(model: SmallModel) -> Explained:
    return MEGL.from_pretrained(model.folder).explain(picture())[0]


@pytest.fixture
def packed(make_model: Callable[..., SmallModel], tmp_path: Path) -> tuple[SmallModel, Path]:
    """A model and its MLflow form."""
    model = make_model()
    target = tmp_path / "packed"
    packaging.save(
        model.folder, {"evaluation.json": model.evaluation}, target, run_id="0" * 32, model_id="m-" + "0" * 32
    )
    return model, target


def test_answers_are_the_explainers(packed: tuple[SmallModel, Path]) -> None:
    model, target = packed
    loaded = mlflow.pyfunc.load_model(str(target))
    content = png(picture())
    rows = loaded.predict(pd.DataFrame({"image": [content]}))
    want = expected(model)
    assert list(rows) == ["label", "probability", "probabilities", "rationale", "heat_map"]
    row = rows.iloc[0]
    assert (row["label"], row["rationale"]) == (want.label, want.rationale)
    assert row["probability"] == pytest.approx(want.probability)
    probabilities = json.loads(row["probabilities"])
    assert probabilities == pytest.approx(want.probabilities)
    assert list(probabilities) == list(want.probabilities)  # the most probable first
    heat = Image.open(io.BytesIO(row["heat_map"]))
    assert (heat.mode, heat.size) == ("L", (40, 24))
    assert np.abs(np.asarray(heat) / 255 - want.heat_map).max() <= 0.5 / 255 + 1e-6
    text = base64.encodebytes(content).decode()
    pd.testing.assert_frame_equal(loaded.predict(pd.DataFrame({"image": [text]})), rows)


def test_every_bad_row_is_named(packed: tuple[SmallModel, Path]) -> None:
    loaded = mlflow.pyfunc.load_model(str(packed[1])).unwrap_python_model()
    cells = [png(picture()), b"no image", "not base64!", 7, png(picture())[:60]]
    with pytest.raises(DataError, match="4 of 5 rows hold no image") as caught:
        loaded.predict(None, pd.DataFrame({"image": cells}))
    named = [problem.partition(":")[0] for problem in caught.value.problems]
    assert named == ["row 1", "row 2", "row 3", "row 4"]


def test_requirements_are_pinned_and_small(packed: tuple[SmallModel, Path]) -> None:
    lines = (packed[1] / "requirements.txt").read_text().splitlines()
    names = [line.partition("==")[0] for line in lines]
    assert sorted(names) == sorted(packaging.SERVING_PACKAGES)
    assert all("==" in line and "+" not in line for line in lines)
    locked = (REPOSITORY / "requirements-serve.lock").read_text()
    assert all(f"\n{name}==" in locked for name in names)


def test_nothing_but_the_packages_code_is_packed(packed: tuple[SmallModel, Path]) -> None:
    target = packed[1]
    assert {path.name for path in target.iterdir()} == {
        *("MLmodel", "artifacts", "code", "conda.yaml", "input_example.json", "python_env.yaml"),
        *("requirements.txt", "serving_input_example.json", "serving_model.py"),
    }
    assert [path.name for path in (target / "code").iterdir()] == ["megl_core"]
    assert not list(target.rglob("*.pkl")) + list(target.rglob("*.pyc"))


@pytest.mark.slow
@pytest.mark.service
def test_over_http(packed: tuple[SmallModel, Path], tmp_path: Path) -> None:
    model, target = packed
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(target)),
        *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port := free_port())),
    ]
    log = tmp_path / "serve.log"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # mlflow looks for uvicorn there
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | {"PATH": path}, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/ping", process, log)
        body = {"dataframe_records": [{"image": base64.b64encode(png(picture())).decode()}]}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            (answer,) = json.load(response)["predictions"]
    finally:
        stop_group(process)
    want = expected(model)
    assert (answer["label"], answer["rationale"]) == (want.label, want.rationale)
    assert answer["probability"] == pytest.approx(want.probability)
    assert Image.open(io.BytesIO(base64.b64decode(answer["heat_map"]))).size == (40, 24)


_CLIENT = """
import importlib.util, json, sys, warnings
warnings.simplefilter("ignore")
absent = [name for name in ("megl_core", "dvc", "kfp", "sqlalchemy", "great_expectations", "datasets")
          if importlib.util.find_spec(name) is None]
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
with open(sys.argv[3], "rb") as stream:
    row = model.predict(pandas.DataFrame({"image": [stream.read()]})).iloc[0]
print(json.dumps({"absent": absent, "label": row["label"], "probability": row["probability"],
                  "rationale": row["rationale"], "heat_map": len(row["heat_map"])}))
"""


@pytest.mark.slow
@pytest.mark.service
def test_with_the_serving_packages_only(
    mlflow_server: MLflowServer, make_model: Callable[..., SmallModel], tmp_path: Path
) -> None:
    model = make_model()
    config = RegistryConfig(tracking_uri=mlflow_server.uri)
    with start_run(config, tmp_path, system_metrics=False) as tracker:
        run_id = tracker.run_id
    version = model.register("served", mlflow_server.uri, run_id)
    (tmp_path / "picture.png").write_bytes(png(picture()))

    uv = Path(sys.executable).with_name("uv")
    environment = os.environ | {"VIRTUAL_ENV": str(tmp_path / "venv"), "PYTHONPATH": ""}
    if links := os.environ.get("PIP_FIND_LINKS"):
        environment["UV_FIND_LINKS"] = links
    lock = REPOSITORY / "requirements-serve.lock"
    for command in (
        [str(uv), "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")],
        [str(uv), "pip", "install", "--quiet", "--requirements", str(lock)],
    ):
        subprocess.run(command, env=environment, check=True, timeout=900)
    answer = subprocess.run(
        [
            *(str(tmp_path / "venv" / "bin" / "python"), "-c", _CLIENT),
            *(mlflow_server.uri, version.uri, str(tmp_path / "picture.png")),
        ],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    got = json.loads(answer.stdout.splitlines()[-1])
    want = expected(model)
    assert got["absent"] == ["megl_core", "dvc", "kfp", "sqlalchemy", "great_expectations", "datasets"]
    assert (got["label"], got["rationale"]) == (want.label, want.rationale)
    assert got["probability"] == pytest.approx(want.probability, abs=1e-6)
    assert got["heat_map"] > 0
