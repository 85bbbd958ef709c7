"""Files and folders on S3: whole and verified, or not there.

An uploaded folder is complete once its index object is there, which is written last and names the size and
the SHA-256 of every file. A download that stops is continued where it stopped, by the next call too.
"""

import hashlib
import json
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from megl_core.config import StorageConfig
from megl_core.errors import ConfigError, DataError, IntegrityError, MeglError, UnavailableError
from megl_core.files import atomic_directory, canonical_json, resolve_inside, sha256_file, sync, tree_digests
from megl_core.locks import locked_folder
from megl_core.redaction import redact
from megl_core.storage.problems import told_as_megl_errors

INDEX = ".index.json"
_CHUNK = 1 << 20
_SHA256 = re.compile("[0-9a-f]{64}")
_LONGEST_PAUSE = 20.0
_ABSENT = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_REFUSED = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Size in bytes and SHA-256 (hex) of a file, as an index has them."""

    size: int
    sha256: str


def is_s3(uri: str) -> bool:
    """Whether a text is an s3:// address."""
    return uri.startswith("s3://")


def open_client(config: StorageConfig) -> Any:
    """A boto3 client of the store, safe to share between threads.

    Raises:
        UnavailableError: boto3 is not installed.
        ConfigError: the settings do not fit, such as an address that is none.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise UnavailableError("boto3 is not installed here", fix="pip install 'megl[data]'") from None
    settings = Config(
        connect_timeout=config.connect_timeout,
        read_timeout=config.read_timeout,
        retries={"mode": "standard", "total_max_attempts": config.retries + 1},
        s3={"addressing_style": config.addressing_style},
        max_pool_connections=2 * config.threads,  # others may ask beside those that transfer
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return boto3.Session().client(
            "s3",
            endpoint_url=config.endpoint_url,
            region_name=config.region,
            verify=str(config.ca_bundle) if config.ca_bundle else None,
            config=settings,
        )
    except ValueError as error:
        raise ConfigError(redact(str(error)), where="storage", fix="check storage.endpoint_url") from None


def exists(uri: str, config: StorageConfig) -> bool:
    """Whether there is a complete folder or an object at an address.

    Raises:
        UnavailableError: the store does not answer, or refuses.
    """
    client = open_client(config)
    with _problems(uri):
        return any(_is_there(client, address) for address in (join(uri, INDEX), uri))


def upload_file(file: Path, uri: str, config: StorageConfig) -> None:
    """Copy a file to an object, in parts where it is large; a failed upload leaves none.

    Raises:
        UnavailableError: the store does not answer, or refuses.
    """
    _upload(open_client(config), file, uri, config)


def upload_folder(folder: Path, uri: str, config: StorageConfig) -> None:
    """Copy every file below a folder; nothing is sent where the index there names the same files.

    Raises:
        DataError: no files, or a link that leads out of the folder.
        UnavailableError: the store does not answer, or refuses; the folder there is absent then.
    """
    files = _describe(folder)
    client = open_client(config)
    if _read_index(client, uri, config) == files:
        return
    with _problems(uri):
        client.delete_object(**_place(join(uri, INDEX)))
    _in_threads(lambda path: _upload(client, folder / path, join(uri, path), config), files, config)
    index = {path: {"size": file.size, "sha256": file.sha256} for path, file in files.items()}
    with _problems(uri):
        client.put_object(**_place(join(uri, INDEX)), Body=canonical_json(index), **_checksum(config))


def list_folder(uri: str, config: StorageConfig) -> dict[str, StoredFile]:
    """`{path: size and SHA-256}` of an uploaded folder, as its index has them.

    Raises:
        DataError: no complete folder there.
        UnavailableError: the store does not answer, or refuses.
    """
    return require_index(open_client(config), uri, config)


def download_file(uri: str, file: Path, config: StorageConfig) -> None:
    """Copy an object to a file, whole or not at all.

    Raises:
        DataError: no such object.
        UnavailableError: the store does not answer, or refuses; what has arrived is kept for the next call.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    fetch(open_client(config), uri, file, None, config)


def download_folder(uri: str, folder: Path, config: StorageConfig) -> None:
    """Copy an uploaded folder; its place is taken when every file is there and has its SHA-256.

    Until then the files lie in a hidden folder beside it, where the next call finds them.

    Raises:
        DataError: no complete folder there, or an index with paths that lead out of the folder.
        IntegrityError: an object is not what the index says.
        UnavailableError: the store does not answer, or refuses.
        MeglError: something else lies at `folder`.
    """
    client = open_client(config)
    files = require_index(client, uri, config)
    if _is_whole(folder, files):
        return
    partial = folder.parent / f".{folder.name}.partial"
    targets = {path: resolve_inside(partial, path) for path in files}

    def fetch_one(path: str) -> None:
        targets[path].parent.mkdir(parents=True, exist_ok=True)
        if not _has(targets[path], files[path]):
            fetch(client, join(uri, path), targets[path], files[path], config)

    with locked_folder(partial):
        if not _is_whole(folder, files):  # another process may have been here first
            _in_threads(fetch_one, files, config)
            with atomic_directory(folder, marker=min(files)) as temporary:
                for path, file in targets.items():
                    (temporary / path).parent.mkdir(parents=True, exist_ok=True)
                    file.replace(temporary / path)
        shutil.rmtree(partial)


def read_object(uri: str, config: StorageConfig) -> bytes | None:
    """A small object's bytes; None where there is none.

    Raises:
        UnavailableError: the store does not answer, or refuses.
    """
    client = open_client(config)
    with _problems(uri):
        if not _is_there(client, uri):
            return None
        return _read(client, uri, config)


def write_object(content: bytes, uri: str, config: StorageConfig) -> None:
    """Store a small object.

    Raises:
        UnavailableError: the store does not answer, or refuses.
    """
    client = open_client(config)
    with _problems(uri):
        client.put_object(**_place(uri), Body=content, **_checksum(config))


def list_folders(uri: str, config: StorageConfig) -> list[str]:
    """Names of what lies directly below an address, complete or not.

    Raises:
        UnavailableError: the store does not answer, or refuses.
    """
    place = _place(uri)
    prefix = place["Key"] + "/"
    pages = open_client(config).get_paginator("list_objects_v2")
    with _problems(uri):
        found = [
            one["Prefix"]
            for page in pages.paginate(Bucket=place["Bucket"], Prefix=prefix, Delimiter="/")
            for one in page.get("CommonPrefixes", [])
        ]
    return sorted(name.removeprefix(prefix).rstrip("/") for name in found)


def remove_folder(uri: str, config: StorageConfig) -> None:
    """Remove everything below an address, where there is anything; its index first.

    Raises:
        UnavailableError: the store does not answer, or refuses.
    """
    place = _place(uri)
    client = open_client(config)
    pages = client.get_paginator("list_objects_v2")
    with _problems(uri):
        client.delete_object(**_place(join(uri, INDEX)))
        keys = [
            str(one["Key"])
            for page in pages.paginate(Bucket=place["Bucket"], Prefix=place["Key"] + "/")
            for one in page.get("Contents", [])
        ]
        _in_threads(lambda key: client.delete_object(Bucket=place["Bucket"], Key=key), keys, config)


def _in_threads(work: Callable[[str], object], paths: Iterable[str], config: StorageConfig) -> None:
    """Do the work for each path; the first failure drops what has not begun and is raised."""
    pool = ThreadPoolExecutor(config.threads)
    try:
        for _ in pool.map(work, paths):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _describe(folder: Path) -> dict[str, StoredFile]:
    files = {
        path: StoredFile(resolve_inside(folder, path).stat().st_size, digest)
        for path, digest in tree_digests(folder).items()
        if path != INDEX
    }
    if not files:
        raise DataError("there are no files in this folder", where=str(folder))
    return files


def _is_whole(folder: Path, files: Mapping[str, StoredFile]) -> bool:
    if not folder.is_dir():
        return False
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return present == set(files) and all(_has(folder / path, file) for path, file in files.items())


def _has(path: Path, file: StoredFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256_file(path) == file.sha256


def require_index(client: Any, uri: str, config: StorageConfig) -> dict[str, StoredFile]:
    """What the folder at an address holds.

    Raises:
        DataError: there is no complete folder.
        UnavailableError: the store does not answer, or refuses.
    """
    files = _read_index(client, uri, config)
    if files is None:
        raise DataError(
            "there is no complete folder at this address",
            where=uri,
            fix=f"upload it (again): megl data upload FOLDER {uri}",
        )
    return files


def _read_index(client: Any, uri: str, config: StorageConfig) -> dict[str, StoredFile] | None:
    """What the folder at an address holds; None: nothing complete."""
    address = join(uri, INDEX)
    with _problems(uri):
        if not _is_there(client, address):
            return None
        content = _read(client, address, config)
    try:
        files = {
            str(path): StoredFile(int(file["size"]), str(file["sha256"]))
            for path, file in json.loads(content).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        files = {}
    if not files or not all(_SHA256.fullmatch(file.sha256) for file in files.values()):
        raise DataError("this is no index of a folder", where=address, fix="upload the folder again")
    return files


def _upload(client: Any, file: Path, uri: str, config: StorageConfig) -> None:
    from boto3.s3.transfer import TransferConfig

    place = _place(uri)
    with _problems(uri):
        client.upload_file(
            str(file),
            place["Bucket"],
            place["Key"],
            ExtraArgs=_checksum(config),
            Config=TransferConfig(use_threads=False),
        )


def _checksum(config: StorageConfig) -> dict[str, str]:
    return {"ChecksumAlgorithm": config.checksum} if config.checksum else {}


def fetch(
    client: Any,
    uri: str,
    target: Path,
    expected: StoredFile | None,
    config: StorageConfig,
    stop: threading.Event | None = None,
) -> None:
    """Fetch an object beside its place, check it, and put it there.

    What has arrived of it is kept where the store fails, or where `stop` is set, and serves the next call.
    Where the bytes are wrong, all of them are asked for once more: a part may be one that a crash has
    damaged, and what a network garbles it seldom garbles twice.

    Raises:
        DataError: no such object.
        IntegrityError: it is not what is expected.
        UnavailableError: the store does not answer, or refuses; or `stop` was set.
    """
    with _problems(uri):
        head = client.head_object(**_place(uri))
        size = head["ContentLength"]
        if expected and size != expected.size:
            raise IntegrityError(f"it has {size} bytes, not {expected.size}", where=uri)
        version = hashlib.sha256(head["ETag"].encode()).hexdigest()[:16]  # a changed object starts anew
        part = target.with_name(f".{target.name}.{version}.part")
        for _ in range(2):
            _fill(client, uri, part, head["ETag"], size, _Tries(config, stop))
            if part.stat().st_size == size and (not expected or sha256_file(part) == expected.sha256):
                sync(part)
                part.replace(target)
                sync(target.parent)
                return
            part.unlink()
    raise IntegrityError(
        f"the bytes are not what the {'index' if expected else 'store'} says",
        where=uri,
        fix="upload it again from a sound copy",
    )


class _Tries:
    """Counts tries in a row that brought nothing, and pauses longer after each."""

    def __init__(self, config: StorageConfig, stop: threading.Event | None = None) -> None:
        self.stop = stop or threading.Event()
        self._most = config.retries
        self._failures = 0

    def failed(self, error: Exception, *, brought_some: bool = False) -> None:
        """Wait before another try; raises the error where there were enough."""
        self._failures = 1 if brought_some else self._failures + 1
        if self._failures > self._most:
            raise error
        pause = min(0.1 * 2**self._failures, _LONGEST_PAUSE)
        self.stop.wait(pause * random.uniform(0.5, 1))  # noqa: S311 (spreads clients, no secret)


def _fill(client: Any, uri: str, part: Path, etag: str, size: int, tries: _Tries) -> None:
    """Append to `part` until it has `size` bytes."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    part.touch()
    while (start := part.stat().st_size) < size:
        try:
            answer = client.get_object(**_place(uri), Range=f"bytes={start}-", IfMatch=etag)
            goes_on = answer.get("ContentRange", "").startswith(f"bytes {start}-")
            with part.open("ab" if goes_on else "wb") as stream:  # some stores and proxies send all of it
                while not tries.stop.is_set() and (chunk := answer["Body"].read(_CHUNK)):
                    stream.write(chunk)
            if part.stat().st_size <= start and not tries.stop.is_set():
                raise IncompleteReadError(actual_bytes=0, expected_bytes=size - start)
        except (HTTPClientError, IncompleteReadError) as error:
            tries.failed(error, brought_some=part.stat().st_size > start)
        if tries.stop.is_set():
            raise UnavailableError("the download was stopped", where=uri)


def _read(client: Any, uri: str, config: StorageConfig) -> bytes:
    """A small object's bytes; where they break off they are asked for again."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    tries = _Tries(config)
    while True:
        try:
            content: bytes = client.get_object(**_place(uri))["Body"].read()
        except (HTTPClientError, IncompleteReadError) as error:
            tries.failed(error)
        else:
            return content


def _is_there(client: Any, uri: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.head_object(**_place(uri))
    except ClientError as error:
        if _code(error) in _ABSENT:
            return False
        raise
    return True


def _place(uri: str) -> dict[str, str]:
    parts = urlsplit(uri, allow_fragments=False)
    key = uri.removeprefix(f"s3://{parts.netloc}").strip("/")  # a key may hold a "?"
    if not is_s3(uri) or not parts.netloc or not key:
        raise ConfigError(f"not an address of an object: {redact(uri)}", fix="write s3://bucket/key")
    return {"Bucket": parts.netloc, "Key": key}


def join(uri: str, path: str) -> str:
    """The address of a file of a folder."""
    return f"{uri.rstrip('/')}/{path}"


@contextmanager
def _problems(uri: str) -> Iterator[None]:
    from botocore.exceptions import ClientError

    with told_as_megl_errors(uri):
        try:
            yield
        except ClientError as error:
            if problem := _answered(error, uri):
                raise problem from None
            raise


def _answered(error: Any, uri: str) -> MeglError | None:
    """What a refusal of the store means; None: that it failed."""
    what = redact(str(error))
    if _code(error) in _ABSENT:
        return DataError(what, where=uri, fix="check bucket and key")
    if _code(error) in _REFUSED:
        return UnavailableError(
            what, where=uri, fix="check the credentials (AWS_PROFILE or AWS_ACCESS_KEY_ID)"
        )
    if _code(error) in {"412", "PreconditionFailed"}:
        return IntegrityError("the object changed while it was read", where=uri, fix="run it again")
    return None


def _code(error: Any) -> str:
    return str(error.response["Error"]["Code"])
