"""Signing with a key that stays in AWS KMS, served by moto."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from megl_core.errors import ConfigError, UnavailableError
from megl_core.provenance.signing import LocalSigner, load_signer, load_verifier, open_envelope, seal
from megl_core.provenance.statement import PREDICATE_TYPE, STATEMENT_TYPE
from tests.integration.conftest import free_port

pytestmark = pytest.mark.service

STATEMENT: dict[str, Any] = {
    "_type": STATEMENT_TYPE,
    "subject": [],
    "predicateType": PREDICATE_TYPE,
    "predicate": {
        "buildDefinition": {"externalParameters": {}, "resolvedDependencies": []},
        "runDetails": {"byproducts": []},
    },
}


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a moto server that boto3 finds by itself."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    yield boto3.client("kms")
    server.stop()


def make_key(kms: Any, spec: str, usage: str = "SIGN_VERIFY") -> str:
    return str(kms.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["KeyId"])


def test_a_key_signs_without_leaving_kms(kms: Any) -> None:
    identifier = make_key(kms, "ECC_NIST_P256")
    kms.create_alias(AliasName="alias/megl", TargetKeyId=identifier)
    signer, verifier = load_signer("awskms:///alias/megl"), load_verifier(f"awskms:///{identifier}")
    assert not isinstance(signer, LocalSigner)
    assert signer.key_id == verifier.key_id
    assert open_envelope(seal(STATEMENT, signer), verifier, "x") == STATEMENT
    other = load_verifier(f"awskms:///{make_key(kms, 'ECC_NIST_P256')}")
    assert other.key_id != verifier.key_id


def test_keys_that_cannot_sign_are_refused(kms: Any) -> None:
    with pytest.raises(ConfigError, match="this is RSAPublicKey"):
        load_signer(f"awskms:///{make_key(kms, 'RSA_2048')}")
    with pytest.raises(ConfigError, match="EC on secp384r1"):
        load_verifier(f"awskms:///{make_key(kms, 'ECC_NIST_P384')}")
    with pytest.raises(ConfigError, match="KMS has no such key"):
        load_signer("awskms:///alias/nobody")


@pytest.mark.usefixtures("kms")
def test_a_kms_that_does_not_answer_is_named_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="KMS did not get public key"):
        load_signer("awskms:///alias/megl")
    assert time.monotonic() - started < 30


@pytest.mark.usefixtures("kms")
def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(UnavailableError, match="credentials"):
        load_signer("awskms:///alias/megl")
