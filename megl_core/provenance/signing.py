"""Signatures: DSSE envelopes with ECDSA on the curve P-256 and SHA-256.

A key is named by a URI: a PEM file, `env:NAME` (the PEM is that variable's value) or `awskms:///KEY` (it
never leaves AWS KMS; KEY is an id, an ARN or `alias/...`). The specification of the envelope is
https://github.com/secure-systems-lab/dsse.
"""

import base64
import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from megl_core.config import RegistryConfig
from megl_core.errors import ConfigError, IntegrityError, UnavailableError
from megl_core.files import canonical_json, write_bytes
from megl_core.provenance.statement import Statement, read_statement
from megl_core.redaction import redact

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
SIGNING_KEY_VARIABLE = "MEGL_SIGNING_KEY"
PUBLIC_KEY_VARIABLE = "MEGL_PUBLIC_KEY"

_ENV, _KMS = "env:", "awskms:///"
_WRONG_KEY = frozenset({"NotFoundException", "UnsupportedOperationException", "InvalidKeyUsageException"})
_KMS_SECONDS = 10
_FORMS = "name a key by its PEM file, env:NAME or awskms:///KEY; megl lineage keygen FILE makes a pair"
_NEW_PAIR = "megl lineage keygen FILE makes a pair"
_KMS_MAX_MESSAGE = 4096  # bytes


class Signer(Protocol):
    """Holds, or reaches, a private key."""

    key_id: str

    def sign(self, message: bytes) -> bytes:
        """The DER signature of a message."""


class Verifier:
    """Holds a public key; `key_id` is the SHA-256 of its DER form, of which messages show 12 digits."""

    def __init__(self, key: "EllipticCurvePublicKey") -> None:
        self.key_id = key_id(key)
        self._key = key

    def accepts(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's for that message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            self._key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


class LocalSigner:
    """Signs with a private key in memory."""

    def __init__(self, key: "EllipticCurvePrivateKey") -> None:
        self.key_id = key_id(key.public_key())
        self._key = key

    def sign(self, message: bytes) -> bytes:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        return self._key.sign(message, ec.ECDSA(hashes.SHA256()))


class KmsSigner:
    """Signs with a key in AWS KMS, of the kind ECC_NIST_P256; its id is that of the public key."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.key_id = key_id(_kms_public_key(name))

    def sign(self, message: bytes) -> bytes:
        fits = len(message) <= _KMS_MAX_MESSAGE
        answer = _ask_kms(
            "sign",
            KeyId=self._name,
            Message=message if fits else hashlib.sha256(message).digest(),
            MessageType="RAW" if fits else "DIGEST",  # the signature is the same
            SigningAlgorithm="ECDSA_SHA_256",
        )
        return bytes(answer["Signature"])


def find_signer(config: RegistryConfig) -> Signer | None:
    """The signer that `registry.signing_key` or `MEGL_SIGNING_KEY` names; None where neither is set."""
    uri = config.signing_key or os.environ.get(SIGNING_KEY_VARIABLE)
    return load_signer(uri) if uri else None


def find_verifier(config: RegistryConfig | None = None) -> Verifier | None:
    """The verifier that `registry.public_key` or `MEGL_PUBLIC_KEY` names; None where neither is set."""
    uri = (config.public_key if config else None) or os.environ.get(PUBLIC_KEY_VARIABLE)
    return load_verifier(uri) if uri else None


def load_signer(uri: str) -> Signer:
    """A signer by the URI of its key.

    Raises:
        ConfigError: there is no such key, or it is not a private key on P-256.
        UnavailableError: KMS does not answer, or a package is missing.
    """
    _require("cryptography")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if uri.startswith(_KMS):
        return KmsSigner(uri.removeprefix(_KMS))
    try:
        key = load_pem_private_key(_pem(uri), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(
            "this is no private key in PEM, or one with a password", where=uri, fix=_NEW_PAIR
        ) from None
    return LocalSigner(_on_p256(key, uri))


def load_verifier(uri: str) -> Verifier:
    """A verifier by the URI of its public key; `awskms:///KEY` asks KMS for the public half.

    Raises:
        ConfigError: there is no such key, or it is not a public key on P-256.
        UnavailableError: KMS does not answer, or a package is missing.
    """
    _require("cryptography")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if uri.startswith(_KMS):
        return Verifier(_kms_public_key(uri.removeprefix(_KMS)))
    try:
        key = load_pem_public_key(_pem(uri))
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError("this is no public key in PEM", where=uri, fix=_NEW_PAIR) from None
    return Verifier(_on_p256(key, uri))


def write_key_pair(private: Path) -> Path:
    """Make a key pair: `private` (PEM, mode 0600) and beside it `<private>.pub`; returns the latter.

    Raises:
        ConfigError: one of the files exists, or cannot be written.
        UnavailableError: a package is missing.
    """
    _require("cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = private.with_name(private.name + ".pub")
    for path in (private, public):
        if path.exists():
            raise ConfigError("a key is never overwritten", where=str(path), fix="choose another name")
    key = ec.generate_private_key(ec.SECP256R1())
    content = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        private.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
    except OSError as error:
        raise ConfigError(f"the key cannot be written: {error.strerror}", where=str(private)) from None
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    write_bytes(public, key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return public


def seal(statement: Statement, signer: Signer | None) -> dict[str, Any]:
    """The DSSE envelope of a statement; without a signer it has no signature."""
    payload = canonical_json(statement)
    signatures = []
    if signer is not None:
        signature = signer.sign(pre_authentication_encoding(PAYLOAD_TYPE, payload))
        signatures = [{"keyid": signer.key_id, "sig": base64.b64encode(signature).decode()}]
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": signatures,
    }


def open_envelope(envelope: Any, verifier: Verifier | None, where: str) -> Statement:
    """The statement in an envelope; with a verifier only if that key signed it.

    Raises:
        IntegrityError: it is no envelope, or the signature is missing or not that key's.
        DataError: what it holds is no statement.
    """
    try:
        payload = _decode(envelope["payload"])
        signatures = [_decode(item["sig"]) for item in envelope["signatures"]]
        kind = str(envelope["payloadType"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise IntegrityError("this is no DSSE envelope", where=where) from None
    if verifier is not None:
        message = pre_authentication_encoding(kind, payload)
        if not signatures:
            raise IntegrityError(
                "it is not signed, and a public key is configured",
                where=where,
                fix="use a signed version, or sign it: registry.signing_key",
            )
        if not any(verifier.accepts(message, signature) for signature in signatures):
            raise IntegrityError(
                f"its signature is not that of the key {verifier.key_id[:12]}",
                where=where,
                fix="do not use it; find out who wrote it",
            )
    if kind != PAYLOAD_TYPE:
        raise IntegrityError(f"the envelope holds {kind[:60]!r}, not {PAYLOAD_TYPE}", where=where)
    try:
        value = json.loads(payload)
    except ValueError:
        raise IntegrityError("the envelope holds no JSON", where=where) from None
    return read_statement(value, where)


def signed_by(envelope: Mapping[str, Any]) -> list[str]:
    """Ids of the keys that an envelope names; nothing is checked."""
    return [str(item.get("keyid", "")) for item in envelope.get("signatures", [])]


def pre_authentication_encoding(kind: str, payload: bytes) -> bytes:
    """What is signed: `DSSEv1 <length> <type> <length> <payload>`."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def key_id(key: "EllipticCurvePublicKey") -> str:
    """SHA-256 of the key's DER form."""
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def _decode(text: str) -> bytes:
    """Base64 in either alphabet, as the specification wants it."""
    return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)


def _pem(uri: str) -> bytes:
    if "-----BEGIN" in uri:
        raise ConfigError("this is a key itself, not the name of one", fix=_FORMS)
    if uri.startswith(_ENV):
        name = uri.removeprefix(_ENV)
        if name not in os.environ:
            raise ConfigError(f"the environment variable {name} is not set", where=uri, fix=_FORMS)
        return os.environ[name].encode()
    try:
        return Path(uri).read_bytes()
    except OSError as error:
        raise ConfigError(f"the key cannot be read: {error.strerror}", where=uri, fix=_FORMS) from None


def _on_p256(key: Any, uri: str) -> Any:
    """The key, if it is an EC key on that curve."""
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = getattr(key, "curve", None)
    if not isinstance(curve, ec.SECP256R1):
        kind = f"EC on {curve.name}" if curve else type(key).__name__
        raise ConfigError(f"a key must be EC on the curve P-256; this is {kind}", where=uri, fix=_NEW_PAIR)
    return key


def _kms_public_key(name: str) -> "EllipticCurvePublicKey":
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    key: EllipticCurvePublicKey = _on_p256(
        load_der_public_key(_ask_kms("get_public_key", KeyId=name)["PublicKey"]), _KMS + name
    )
    return key


def _ask_kms(operation: str, **arguments: Any) -> Mapping[str, Any]:
    _require("boto3")
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    limits = Config(
        connect_timeout=_KMS_SECONDS, read_timeout=_KMS_SECONDS, retries={"total_max_attempts": 3}
    )
    where = _KMS + str(arguments["KeyId"])
    try:
        client = boto3.Session().client("kms", config=limits)
        answer: Mapping[str, Any] = getattr(client, operation)(**arguments)
    except (BotoCoreError, ClientError) as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code")
        if code in _WRONG_KEY:
            raise ConfigError(f"KMS has no such key for that: {redact(str(error))}", where=where) from None
        raise UnavailableError(
            f"KMS did not {operation.replace('_', ' ')}: {redact(str(error))}",
            where=where,
            fix="check that KMS can be reached, AWS_DEFAULT_REGION and the credentials",
        ) from None
    return answer


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UnavailableError(
            f"the package {package} is not installed, and a key is configured", fix=f"pip install {package}"
        )
