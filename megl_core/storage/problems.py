"""What goes wrong in DVC, Git and S3, told as a `MeglError`: what, where, what to do, no secrets."""

import contextlib
import errno
import logging
from collections.abc import Iterator

from megl_core.errors import DataError, MeglError, UnavailableError
from megl_core.redaction import redact

# Class names of errors in the order of asking: importing the classes would import every client library.
_KNOWN: list[tuple[set[str], type[MeglError], str]] = [
    (
        {"NoRemoteError", "RemoteNotFoundError", "NoRemoteInExternalRepoError"},
        UnavailableError,
        "add one: dvc remote add --default storage s3://bucket/folder",
    ),
    (
        {"PermissionError", "AuthError", "GitAuthError", "NoCredentialsError"},
        UnavailableError,
        "check the credentials (AWS_PROFILE or AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and their rights",
    ),
    ({"RevError"}, DataError, "name a commit, branch or tag of that repository; `git fetch` may be needed"),
    (
        {"CloneError"},
        UnavailableError,
        "check the repository's URL and that you may read it (credential helper of Git, SSH key)",
    ),
    (
        {"NotDvcRepoError"},
        DataError,
        "run `dvc init` at the root of your Git repository, or `dvc init --no-scm` in a plain folder",
    ),
    (
        {"DataIndexDirError", "FileNotFoundError", "FileMissingError"},
        DataError,
        "the remote lacks it: run `dvc push` where the data is, and see that the bucket exists",
    ),
    (
        {
            "ConnectionError",
            "ConnectionClosedError",
            "HTTPClientError",
            "ClientError",
            "IncompleteReadError",
            "TimeoutError",
            "OSError",
        },
        UnavailableError,
        "the service gave no answer or failed after several tries: run it again later, or check its address",
    ),
    (
        {"DvcException", "SCMError", "ObjectFormatError"},
        DataError,
        "`dvc status` shows what DVC knows of this folder",
    ),
]

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class CauseCollector(logging.Handler):
    """Keeps the exceptions that a library logs before it raises a summary such as "2 files failed"."""

    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.causes: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self.causes.append(record.exc_info[1])


@contextlib.contextmanager
def told_as_megl_errors(where: str) -> Iterator[CauseCollector]:
    """Turn what DVC, Git and S3 raise in the block into a `MeglError`."""
    collector = CauseCollector()
    try:
        yield collector
    except MeglError:
        raise
    except ImportError as error:
        raise UnavailableError(
            f"DVC is not installed here ({error})", fix="pip install 'megl[data]'"
        ) from None
    except Exception as error:
        if problem := _translate(error, collector.causes, where):
            raise problem from error
        raise


def _translate(error: Exception, causes: list[BaseException], where: str) -> MeglError | None:
    """The first entry of `_KNOWN` that fits the error or what led to it; None: a bug, not a problem."""
    chain = [link for one in (error, *causes) for link in _chain(one)]
    names = {kind.__name__ for link in chain for kind in type(link).__mro__}
    told = causes[0] if causes else error
    if "CloneError" in names:  # says "SCM error"
        told = list(_chain(error))[-1]
    what = redact(str(told) or type(told).__name__)
    where = redact(where)
    if any(isinstance(link, OSError) and link.errno in _DISK_FULL for link in chain):
        return MeglError(f"cannot write: {what}", where=where, fix="free some space and run it again")
    for known, kind, fix in _KNOWN:
        if names.intersection(known):
            return kind(what, where=where, fix=fix)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
