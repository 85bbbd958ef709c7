"""What every test may use."""

import os
from pathlib import Path

import pytest

for variable in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "DVC_NO_ANALYTICS", "HF_HUB_OFFLINE"):
    os.environ.setdefault(variable, "true" if variable == "MLFLOW_DISABLE_TELEMETRY" else "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_data(name: str) -> Path:
    """A real dataset that lies beside the checkout on some machines; skips the test elsewhere."""
    path = REPOSITORY.parent / "shared" / "data" / name
    if not path.is_dir():
        pytest.skip(f"real dataset {name!r} is not on this machine (looked for {path})")
    return path
