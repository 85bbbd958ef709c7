"""Dataset versions: DVC, and S3 or any other remote through it. Importing this loads no framework."""

from megl_core.storage.dvc import DvcVersion, ensure_repository, fetch, push, resolve, track

__all__ = ["DvcVersion", "ensure_repository", "fetch", "push", "resolve", "track"]
