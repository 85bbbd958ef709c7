"""Which version of a dataset this is, according to DVC: record it, push it, fetch it again.

DVC and its remotes (a folder, S3 and others) already retry what is worth retrying; what is left is
told as a `MeglError` without the credentials that a URL may carry.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megl_core.errors import DataError, IntegrityError
from megl_core.files import atomic_directory, resolve_inside
from megl_core.redaction import redact
from megl_core.storage.problems import told_as_megl_errors

_DATASET_FILE = "annotations.jsonl"  # what every folder of the data contract holds


@dataclass(frozen=True, slots=True)
class DvcVersion:
    """The bytes that a path in a DVC repository stands for."""

    repository: str
    """Root folder or URL of the DVC repository."""
    revision: str | None
    """The Git commit that holds this version; None: no Git, or not committed yet."""
    path: str
    """POSIX, relative to the repository's root."""
    md5: str
    """DVC's hash; of a folder, that of its listing, ending in `.dir`."""
    num_files: int
    size: int
    """Bytes."""
    changed: bool = field(default=False, compare=False)
    """Whether `track` had to record new content."""


def ensure_repository(folder: Path) -> Path:
    """Make `folder` a DVC repository of its own, without Git, unless it is one; returns its root.

    For workspaces, whether or not they lie inside another (Git or DVC) repository.
    """
    root = folder.resolve()
    if not (root / ".dvc" / "config").is_file():
        root.mkdir(parents=True, exist_ok=True)
        with _quiet_dvc(str(root)) as dvc_repo:
            dvc_repo.Repo.init(str(root), no_scm=True).close()
    return root


def use_remote(root: Path, name: str, settings: Mapping[str, str]) -> None:
    """Make a remote the default one of the DVC repository at `root`, with exactly these settings.

    Raises:
        DataError: DVC knows no such setting.
    """
    with _quiet_dvc(str(root)) as dvc_repo, dvc_repo.Repo(str(root)) as repo:
        config = repo.config.load_one("repo")
        if config["core"].get("remote") == name and config["remote"].get(name) == settings:
            return
        with repo.config.edit("repo") as config:
            config["core"]["remote"] = name
            config["remote"][name] = dict(settings)


def track(path: Path) -> DvcVersion:
    """Record the content of a folder or file in the DVC repository that encloses it.

    Content that is recorded already is only checked; changed content is recorded anew, in the
    `.dvc` file or, for a stage's output, in dvc.lock.

    Raises:
        DataError: nothing at `path`, no enclosing repository, or DVC cannot track it there.
    """
    path = _existing(path)
    with _working_repository(path) as repo:
        output = _find_output(repo, path, strict=False)
        if output is not None and output.fs_path != str(path):
            raise DataError(
                f"this path lies inside {_relative(repo, output)!r}, which DVC tracks as a whole",
                where=str(path),
                fix=f"track {output.fs_path}",
            )
        changed = output is None or bool(output.status())
        if output is None:
            repo.add(str(path))
        elif changed:
            repo.commit(str(path), force=True)
        output = _find_output(repo, path)
        return _version(repo, output, repo.root_dir, changed=changed)


def push(path: Path, remote: str | None = None) -> int:
    """Copy a tracked path to a remote (None: the default one); returns how many objects it lacked.

    Raises:
        DataError: `path` is not tracked.
        UnavailableError: there is no such remote, or it cannot be written.
    """
    path = _existing(path)
    with _working_repository(path) as repo:
        if _find_output(repo, path) is None:
            raise DataError("DVC does not track this path", where=str(path), fix=f"dvc add {path}")
        repo.cloud.get_remote(name=remote)  # `push` itself passes over a remote that is not there
        return int(repo.push(targets=[str(path)], remote=remote))


def resolve(repository: str, path: str, revision: str | None) -> DvcVersion:
    """What a revision of a repository records at a path; no data are read. Arguments as of `fetch`.

    Raises:
        DataError: no such revision, or DVC tracks no folder there.
        UnavailableError: the repository cannot be read.
    """
    with repository_at(repository, revision) as repo:
        output = _tracked_folder(repo, repository, path, revision)
        return _version(repo, output, redact(repository))


def fetch(repository: str, path: str, revision: str | None, target: Path) -> DvcVersion:
    """Put a tracked dataset, as recorded at a revision, into `target`; one that lies there is replaced.

    `repository` is a folder or a Git URL, `path` relative to its root, `revision` anything Git
    resolves; None means what the working tree records, or the default branch of a URL. The bytes
    come from the repository's cache or its default remote, never from a working copy.

    Raises:
        DataError: no such revision or path, or neither cache nor remote holds its objects.
        UnavailableError: the repository or its remote cannot be read, or it has no remote.
        IntegrityError: what arrived is not what was recorded.
    """
    with (
        atomic_directory(target, marker=_DATASET_FILE) as temporary,
        repository_at(repository, revision) as repo,
    ):
        output = _tracked_folder(repo, repository, path, revision)
        _check_names(repo, output, temporary)
        _download(repo, output, temporary)
        _check(output, temporary)
        return _version(repo, output, redact(repository))


def _existing(path: Path) -> Path:
    """The absolute path; a symlink in the last place stays one, so that DVC can refuse it."""
    if not path.exists():
        raise DataError("there is nothing at this path", where=str(path))
    absolute = path.absolute()
    return absolute.parent.resolve() / absolute.name


def _enclosing(path: Path) -> str:
    for folder in path.parents:
        if (folder / ".dvc").is_dir():
            return str(folder)
    raise DataError(
        "no DVC repository encloses this path",
        where=str(path),
        fix="run `dvc init` at the root of your Git repository, or `dvc init --no-scm` in a plain folder",
    )


@contextlib.contextmanager
def _working_repository(path: Path) -> Iterator[Any]:
    """The `dvc.repo.Repo` that encloses `path`; whatever DVC raises comes out as a `MeglError`."""
    root = _enclosing(path)
    with _quiet_dvc(root) as dvc_repo, dvc_repo.Repo(root) as repo:
        yield repo


@contextlib.contextmanager
def repository_at(url: str, revision: str | None) -> Iterator[Any]:
    """The repository at a revision; one without a default remote serves its own cache."""
    with _quiet_dvc(url) as dvc_repo:
        from dvc.repo.open_repo import clean_repos

        try:
            with dvc_repo.Repo.open(url, rev=revision) as repo:
                yield repo
        finally:
            clean_repos()


@contextlib.contextmanager
def _quiet_dvc(where: str) -> Iterator[Any]:
    """The module `dvc.repo`, whose loggers and bars are held silent: it logs what it then raises."""
    with told_as_megl_errors(where) as causes:
        import dvc.repo

        loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
        settings = [(logger.handlers, logger.propagate) for logger in loggers]
        bars = logging.getLogger("dvc.progress")
        bars.setLevel(logging.CRITICAL)
        for logger in loggers:
            logger.handlers, logger.propagate = [causes], False
        try:
            yield dvc.repo
        finally:
            bars.setLevel(logging.NOTSET)
            for logger, setting in zip(loggers, settings, strict=True):
                logger.handlers, logger.propagate = setting


def _find_output(repo: Any, path: Path, *, strict: bool = True) -> Any | None:
    """The output at `path`; not strictly, also the output that `path` is a part of."""
    from dvc.exceptions import OutputNotFoundError

    try:
        return repo.find_outs_by_path(str(path), strict=strict)[0]
    except OutputNotFoundError:
        return None


def _tracked_folder(repo: Any, repository: str, path: str, revision: str | None) -> Any:
    output = _find_output(repo, Path(repo.root_dir) / path)
    if output is None or not output.is_dir_checksum:
        raise DataError(
            f"DVC tracks no folder {path!r}" + (f" at revision {revision!r}" if revision else ""),
            where=redact(repository),
            fix="name it by its path from the repository's root: dvc list -R --dvc-only",
        )
    return output


def _check_names(repo: Any, output: Any, folder: Path) -> None:
    """The listing of a folder is data of others: DVC itself would follow `..` out of the target."""
    from dvc_data.hashfile.tree import Tree

    store, oid = output.cache, output.hash_info.value
    if not store.exists(oid):
        store = repo.cloud.get_remote_odb(hash_name=output.hash_name)
    try:
        names = ["/".join(key) for key, _, _ in Tree.load(store, output.hash_info)]
    except (AttributeError, KeyError, TypeError):
        raise IntegrityError(
            f"the listing of {output.def_path} is damaged", where=f"DVC object {oid}"
        ) from None
    for name in names:
        resolve_inside(folder, name)


def _committed_revision(repo: Any, output: Any) -> str | None:
    """The Git commit in view, if it records `output` with the hash that it has now."""
    from dvc.exceptions import DvcException
    from dvc.fs import GitFileSystem
    from dvc.scm import NoSCM

    if isinstance(repo.scm, NoSCM):
        return None
    if isinstance(repo.fs, GitFileSystem):
        return str(repo.get_rev())
    with contextlib.suppress(DvcException), type(repo)(repo.root_dir, rev="HEAD") as committed:
        recorded = _find_output(committed, Path("/") / _relative(repo, output))
        if recorded is not None and recorded.hash_info == output.hash_info:
            return str(committed.get_rev())
    return None


def _download(repo: Any, output: Any, folder: Path) -> None:
    from dvc.fs import download
    from dvc.fs.data import DataFileSystem

    storage = DataFileSystem(index=repo.index.data["repo"])
    download(storage, _relative(repo, output), str(folder))


def _check(output: Any, folder: Path) -> None:
    from dvc.fs import localfs
    from dvc_data.hashfile.build import build

    _, _, arrived = build(output.cache, str(folder), localfs, output.hash_name, dry_run=True)
    if arrived.hash_info != output.hash_info:
        raise IntegrityError(
            f"{output.def_path} arrived with the hash {arrived.hash_info.value}, "
            f"recorded is {output.hash_info.value}",
            fix="the cache or the remote holds changed objects: push them again from a sound copy",
        )


def _relative(repo: Any, output: Any) -> str:
    return Path(output.fs_path).relative_to(repo.root_dir).as_posix()


def _version(repo: Any, output: Any, repository: str, *, changed: bool = False) -> DvcVersion:
    return DvcVersion(
        repository=repository,
        revision=_committed_revision(repo, output),
        path=_relative(repo, output),
        md5=output.hash_info.value,
        num_files=output.meta.nfiles or 1,
        size=output.meta.size or 0,
        changed=changed,
    )
