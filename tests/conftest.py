"""What every test may use."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

for variable in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "DVC_NO_ANALYTICS", "HF_HUB_OFFLINE"):
    os.environ.setdefault(variable, "true" if variable == "MLFLOW_DISABLE_TELEMETRY" else "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # the width of whoever runs the tests is not that of what they look at

REPOSITORY = Path(__file__).resolve().parent.parent
# What takes seconds to import; commands load these only where they are needed.
FRAMEWORKS = frozenset(
    {
        "torch",
        "transformers",
        "mlflow",
        "kfp",
        "dvc",
        "great_expectations",
        "pandas",
        "pyarrow",
        "numpy",
    }
)


def shared_data(name: str) -> Path:
    """A real dataset that lies beside the checkout on some machines; skips the test elsewhere."""
    path = REPOSITORY.parent / "shared" / "data" / name
    if not path.is_dir():
        pytest.skip(f"real dataset {name!r} is not on this machine (looked for {path})")
    return path


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small packed set of scenes: 48 training images of 24 pixels, a quarter of them with a mask."""
    from megl_core.config import DataConfig, PackConfig, ScenesConfig
    from megl_core.data.importers import import_dataset
    from megl_core.data.manifest import scan, write_manifest
    from megl_core.data.pack import pack

    folder = tmp_path_factory.mktemp("scenes")
    config = DataConfig(scenes=ScenesConfig(num_train=48, num_val=8, num_test=8, size=24, mask_share=0.25))
    import_dataset(config.importer, None, folder / "dataset", config)
    write_manifest(scan(folder / "dataset", config.split), folder / "manifest.parquet")
    pack(folder / "dataset", folder / "manifest.parquet", folder / "packed", PackConfig())
    return folder / "packed"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; only root may mount one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
