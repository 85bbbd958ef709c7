"""Bytes that were not trained, and those that nobody vouches for, are refused by every way to load."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from megl_core.config import RegistryConfig
from megl_core.errors import DataError, IntegrityError
from megl_core.files import sha256_file, sha256_tree, write_json
from megl_core.models.megl import MEGL
from megl_core.provenance.signing import load_signer, load_verifier, seal, write_key_pair
from megl_core.provenance.statement import read_statement
from megl_core.registry.connection import global_uri
from megl_core.registry.fetching import artifacts_of, fetch_envelope, fetch_model
from megl_core.registry.packaging import input_example
from megl_core.registry.tracking import start_run
from tests.integration.conftest import SmallModel


@dataclass(frozen=True)
class Registry:
    """One registered version, the folder that holds its artifacts, and two keys."""

    store: str
    name: str
    model: SmallModel
    artifacts: Path
    key: Path
    other_key: Path

    def fetch(self, target: Path) -> object:
        return fetch_model(self.name, 1, self.store, target)

    def from_pretrained(self, _: Path) -> object:
        with global_uri(self.store):
            return MEGL.from_pretrained(f"models:/{self.name}/1")

    def serve(self, _: Path) -> object:
        with global_uri(self.store):
            return mlflow.pyfunc.load_model(f"models:/{self.name}/1")

    def refused(self, target: Path, error: type[Exception], fetched: str, served: str) -> None:
        """Every way to load refuses; what is served knows no tags and names the file."""
        for load, reason in (
            (self.fetch, fetched),
            (self.from_pretrained, fetched),
            (self.serve, served),
        ):
            with pytest.raises(error, match=reason):
                load(target)
            assert not target.exists()

    def tag(self, **values: str) -> None:
        for name, value in values.items():
            self.client.set_model_version_tag(self.name, "1", f"megl.{name}", value)

    def untag(self, name: str) -> None:
        self.client.delete_model_version_tag(self.name, "1", f"megl.{name}")

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.store, self.store)

    def replace_provenance(self, signing_key: Path | None) -> None:
        """By one that another key signed, or nobody, and in all tags too."""
        statement = read_statement(json.loads(self.model.statement.read_bytes()), "a test")
        signer = load_signer(str(signing_key)) if signing_key else None
        write_json(self.artifacts / "provenance.json", seal(statement, signer))
        self.tag(provenance_digest=sha256_file(self.artifacts / "provenance.json"))


@pytest.fixture
def registry(
    sqlite_uri: str,
    tmp_path: Path,
    make_model: Callable[..., SmallModel],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Registry:
    """A version that the first of two keys signed."""
    monkeypatch.delenv("MEGL_PUBLIC_KEY", raising=False)
    keys = tmp_path / "key.pem", tmp_path / "other.pem"
    for key in keys:
        write_key_pair(key)
    with start_run(RegistryConfig(tracking_uri=sqlite_uri), tmp_path, system_metrics=False) as tracker:
        run_id = tracker.run_id
    model = make_model()
    version = model.register(request.node.name, sqlite_uri, run_id, signer=load_signer(str(keys[0])))
    client = MlflowClient(sqlite_uri, sqlite_uri)
    location = artifacts_of(client, client.get_model_version(version.name, "1"))
    return Registry(sqlite_uri, version.name, model, Path(str(location).removeprefix("file://")), *keys)


def test_good_bytes_are_loaded(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("", f"{registry.key}.pub"):
        monkeypatch.setenv("MEGL_PUBLIC_KEY", key)
        target = tmp_path / f"fetched-{bool(key)}"
        registry.fetch(target)
        assert sha256_tree(target) == registry.model.digest
        assert isinstance(registry.from_pretrained(target), MEGL)
        assert registry.serve(target) is not None


def test_a_flipped_byte_is_refused(registry: Registry, tmp_path: Path) -> None:
    weights = registry.artifacts / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    named = r"bytes of model\.safetensors are not those that were trained"
    registry.refused(tmp_path / "fetched", IntegrityError, "bytes have changed", named)
    registry.tag(model_digest=sha256_tree(weights.parent))  # tags can be rewritten, the statement not
    registry.refused(tmp_path / "fetched", IntegrityError, named, named)


def test_an_added_pickle_is_refused(registry: Registry, tmp_path: Path) -> None:
    folder = registry.artifacts / "model"
    (folder / "extra.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    named = r"the file extra\.pkl is not part of the model"
    registry.refused(tmp_path / "fetched", IntegrityError, "bytes have changed", named)
    registry.tag(model_digest=sha256_tree(folder))
    registry.refused(tmp_path / "fetched", IntegrityError, named, named)


def test_a_pickle_is_refused_where_nothing_speaks_against_it(registry: Registry, tmp_path: Path) -> None:
    """A version of before provenance, or one whose provenance somebody took away."""
    folder = registry.artifacts / "model"
    (folder / "Weights.PT").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    registry.tag(model_digest=sha256_tree(folder))
    registry.untag("provenance_digest")
    for load in (registry.fetch, registry.from_pretrained):
        with pytest.raises(DataError, match=r"may be pickles(.|\n)*Weights\.PT"):
            load(tmp_path / "fetched")
    with pytest.raises(DataError, match=r"Weights\.PT"):
        MEGL.from_pretrained(folder)


def test_swapped_files_are_refused(registry: Registry, tmp_path: Path) -> None:
    one, other = (registry.artifacts / "model" / name for name in ("config.json", "tokenizer.json"))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    named = r"bytes of config\.json are not those"
    registry.refused(tmp_path / "fetched", IntegrityError, "bytes have changed", named)


def test_a_signature_is_demanded_where_a_key_is_set(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "fetched"
    monkeypatch.setenv("MEGL_PUBLIC_KEY", f"{registry.key}.pub")
    registry.replace_provenance(registry.other_key)
    registry.refused(target, IntegrityError, "not that of the key", "not that of the key")
    registry.replace_provenance(None)
    registry.refused(target, IntegrityError, "it is not signed", "it is not signed")
    registry.untag("provenance_digest")
    with pytest.raises(IntegrityError, match="there is no provenance"):
        registry.fetch(target)
    monkeypatch.delenv("MEGL_PUBLIC_KEY")
    registry.fetch(target)  # no key: the digests decide
    assert sha256_tree(target) == registry.model.digest


def test_a_changed_signature_is_refused(registry: Registry, tmp_path: Path) -> None:
    envelope = fetch_envelope(registry.name, 1, registry.store)
    assert envelope is not None
    envelope["signatures"] = []
    write_json(registry.artifacts / "provenance.json", envelope)
    with pytest.raises(IntegrityError, match=r"bytes have changed(.|\n)*provenance\.json"):
        registry.fetch(tmp_path / "fetched")


def test_a_key_given_by_the_caller_goes_before_the_variable(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGL_PUBLIC_KEY", f"{registry.other_key}.pub")
    verifier = load_verifier(f"{registry.key}.pub")
    assert fetch_model(registry.name, 1, registry.store, tmp_path / "fetched", verifier).is_dir()
    with pytest.raises(IntegrityError, match="not that of the key"):
        registry.fetch(tmp_path / "again")


_WITHOUT_CRYPTOGRAPHY = """
import sys
import mlflow, pandas
sys.modules["cryptography"] = None  # as if it were not installed
model = mlflow.pyfunc.load_model(sys.argv[1])
print(len(model.predict(pandas.read_parquet(sys.argv[2]))))
"""


@pytest.mark.slow
def test_serving_needs_no_cryptography_without_a_key(registry: Registry, tmp_path: Path) -> None:
    input_example().to_parquet(tmp_path / "example.parquet")
    command = [
        *(sys.executable, "-c", _WITHOUT_CRYPTOGRAPHY),
        *(str(registry.artifacts.parent), str(tmp_path / "example.parquet")),
    ]

    def serve(**variables: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | variables
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    without = serve()
    assert without.returncode == 0, without.stderr[-2000:]
    assert without.stdout.splitlines()[-1] == "1"
    demanded = serve(MEGL_PUBLIC_KEY=f"{registry.key}.pub")
    assert demanded.returncode != 0
    assert "the package cryptography is not installed" in demanded.stderr
