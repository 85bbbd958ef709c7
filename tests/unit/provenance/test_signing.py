"""Envelopes and keys; the encoding against the example of its specification."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from megl_core.config import RegistryConfig, parse
from megl_core.errors import ConfigError, IntegrityError
from megl_core.provenance.signing import (
    Verifier,
    find_signer,
    find_verifier,
    load_signer,
    load_verifier,
    open_envelope,
    pre_authentication_encoding,
    seal,
    signed_by,
    write_key_pair,
)
from megl_core.provenance.statement import PREDICATE_TYPE, STATEMENT_TYPE

STATEMENT: dict[str, Any] = {
    "_type": STATEMENT_TYPE,
    "subject": [{"name": "model.safetensors", "digest": {"sha256": "0" * 64}}],
    "predicateType": PREDICATE_TYPE,
    "predicate": {
        "buildDefinition": {"externalParameters": {}, "resolvedDependencies": []},
        "runDetails": {"byproducts": []},
    },
}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    private = tmp_path / "key.pem"
    write_key_pair(private)
    return private


def test_the_encoding_is_that_of_the_specification() -> None:
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_the_signature_of_the_specification_is_accepted() -> None:
    x = 46950820868899156662930047687818585632848591499744589407958293238635476079160
    y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
    raw = base64.b64decode(
        "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
    )
    signature = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    verifier = Verifier(ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key())
    message = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert verifier.accepts(message, signature)
    assert not verifier.accepts(message + b"!", signature)
    assert not verifier.accepts(message, b"no DER")


def test_lengths_count_bytes_not_letters() -> None:
    assert pre_authentication_encoding("ü", "é".encode()) == "DSSEv1 2 ü 2 é".encode()


def test_what_was_sealed_is_opened_by_the_public_key(key: Path) -> None:
    signer, verifier = load_signer(str(key)), load_verifier(f"{key}.pub")
    envelope = seal(STATEMENT, signer)
    assert open_envelope(envelope, verifier, "x") == STATEMENT
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert signed_by(envelope) == [signer.key_id] == [verifier.key_id]
    assert open_envelope(json.loads(json.dumps(envelope)), None, "x") == STATEMENT


def test_a_key_is_named_by_the_digest_of_its_der_form(key: Path) -> None:
    lines = Path(f"{key}.pub").read_text().splitlines()
    der = base64.b64decode("".join(lines[1:-1]))
    assert load_signer(str(key)).key_id == hashlib.sha256(der).hexdigest()


def test_base64_of_urls_is_read_too(key: Path) -> None:
    envelope = seal(STATEMENT | {"note": "\u00ff\u00fe~~~???"}, load_signer(str(key)))
    for part, name in ((envelope, "payload"), (envelope["signatures"][0], "sig")):
        part[name] = part[name].replace("+", "-").replace("/", "_")
    assert open_envelope(envelope, load_verifier(f"{key}.pub"), "x")["note"] == "\u00ff\u00fe~~~???"


def test_a_signed_envelope_of_another_type_is_refused(key: Path) -> None:
    payload, signer = b"{}", load_signer(str(key))
    envelope = {
        "payloadType": "text/plain",
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {
                "sig": base64.b64encode(
                    signer.sign(pre_authentication_encoding("text/plain", payload))
                ).decode()
            }
        ],
    }
    with pytest.raises(IntegrityError, match="holds 'text/plain'"):
        open_envelope(envelope, load_verifier(f"{key}.pub"), "x")


def test_the_name_of_a_key_decides_nothing(key: Path, tmp_path: Path) -> None:
    write_key_pair(tmp_path / "other.pem")
    verifier = load_verifier(f"{key}.pub")
    forged = seal(STATEMENT, load_signer(str(tmp_path / "other.pem")))
    forged["signatures"][0]["keyid"] = verifier.key_id
    with pytest.raises(IntegrityError, match="not that of the key"):
        open_envelope(forged, verifier, "x")
    both = seal(STATEMENT, load_signer(str(key)))
    both["signatures"].insert(0, forged["signatures"][0])
    assert open_envelope(both, verifier, "x") == STATEMENT  # one good signature is enough


@pytest.mark.parametrize("part", ["payload", "payloadType", "sig"])
def test_a_changed_envelope_is_refused(key: Path, part: str) -> None:
    envelope = seal(STATEMENT, load_signer(str(key)))
    if part == "payload":
        changed = json.dumps(STATEMENT).replace("000", "001", 1)
        envelope["payload"] = base64.b64encode(changed.encode()).decode()
    elif part == "payloadType":
        envelope["payloadType"] = "application/json"
    else:
        signature = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
        signature[-1] ^= 1
        envelope["signatures"][0]["sig"] = base64.b64encode(bytes(signature)).decode()
    with pytest.raises(IntegrityError, match="not that of the key"):
        open_envelope(envelope, load_verifier(f"{key}.pub"), "x")


def test_another_key_and_no_key_are_refused(key: Path, tmp_path: Path) -> None:
    write_key_pair(tmp_path / "other.pem")
    verifier = load_verifier(f"{key}.pub")
    with pytest.raises(IntegrityError, match="not that of the key"):
        open_envelope(seal(STATEMENT, load_signer(str(tmp_path / "other.pem"))), verifier, "x")
    with pytest.raises(IntegrityError, match="not signed"):
        open_envelope(seal(STATEMENT, None), verifier, "x")


@pytest.mark.parametrize("envelope", [None, [], {}, {"payload": "!"}, {"payload": "e30=", "signatures": [1]}])
def test_what_is_no_envelope_is_named(envelope: Any) -> None:
    with pytest.raises(IntegrityError, match="no DSSE envelope"):
        open_envelope(envelope, None, "x")


def test_keys_come_from_variables_and_settings(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEGL_SIGNING_KEY", raising=False)
    monkeypatch.delenv("MEGL_PUBLIC_KEY", raising=False)
    monkeypatch.setenv("THE_KEY", key.read_text())
    assert load_signer("env:THE_KEY").key_id == load_verifier(f"{key}.pub").key_id
    assert find_signer(RegistryConfig()) is None
    assert find_verifier() is None
    monkeypatch.setenv("MEGL_SIGNING_KEY", "env:THE_KEY")
    monkeypatch.setenv("MEGL_PUBLIC_KEY", f"{key}.pub")
    assert find_signer(RegistryConfig()) is not None
    assert find_verifier() is not None
    write_key_pair(key.with_name("other.pem"))
    named = RegistryConfig(signing_key=str(key.with_name("other.pem")), public_key=f"{key}.pub")
    assert find_signer(named).key_id != find_verifier(named).key_id  # type: ignore[union-attr]


def test_a_key_itself_is_refused_and_not_shown(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = key.read_text()
    with pytest.raises(ConfigError, match="does not belong here") as caught:
        parse(RegistryConfig, {"signing_key": content})
    monkeypatch.setenv("MEGL_SIGNING_KEY", content)
    with pytest.raises(ConfigError, match="a key itself") as again:
        find_signer(RegistryConfig())
    for error in (caught, again):
        assert content.splitlines()[1][:12] not in str(error.value)


def test_a_private_key_is_its_owners_alone_and_never_overwritten(key: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="never overwritten"):
        write_key_pair(key)


def test_other_keys_are_refused_without_showing_them(tmp_path: Path, key: Path) -> None:
    def pem(private: Any) -> bytes:
        form = serialization.PrivateFormat.PKCS8
        return bytes(private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))

    kinds = {
        "this is Ed25519PrivateKey": pem(ed25519.Ed25519PrivateKey.generate()),
        "this is RSAPrivateKey": pem(rsa.generate_private_key(65537, 2048)),
        "this is EC on secp384r1": pem(ec.generate_private_key(ec.SECP384R1())),
        "no private key in PEM": b"-----BEGIN EC PRIVATE KEY-----\nsecret\n-----END EC PRIVATE KEY-----\n",
        "no private key": Path(f"{key}.pub").read_bytes(),
    }
    for reason, content in kinds.items():
        path = tmp_path / "key"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=reason) as error:
            load_signer(str(path))
        assert content.decode().splitlines()[1] not in str(error.value)
    with pytest.raises(ConfigError, match="no public key"):
        load_verifier(str(key))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_signer(str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="NO_SUCH is not set"):
        load_signer("env:NO_SUCH")
