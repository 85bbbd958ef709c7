"""Deletes what an image does not run, and compiles what is left.

    python slim.py <virtual environment>
    python slim.py --system

Runs while an image is built, with the standard library alone.
"""

import compileall
import ensurepip
import py_compile
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

# Headers, cmake files, compilers of messages and test programs: torch.compile, which would want some of
# them, needs a C++ compiler as well, and the image has none.
PACKAGES = (
    "torch/bin/[!t]*",
    "torch/bin/test_*",
    "torch/include",
    "torch/share",
    "torch/test",
    "pyarrow/include",
    "pyarrow/src",
    "pyarrow/*.px[di]",
    "pyarrow/*.pyx",
    "**/tests",
    "**/*.a",
)
SYSTEM = (
    "etc/apt",
    "etc/pip.conf",
    "opt/*",
    "root/.cache",
    "tmp/pip*",
    "usr/bin/apt*",
    "usr/bin/pip*",
    "usr/lib/*/libapt-*",
    "usr/lib/apt",
    "usr/local/bin/pip*",
    "usr/share/doc/*/*[!t]",  # licences stay, as usr/share/doc/<package>/copyright
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/man/*",
    "usr/share/python-wheels",
    "var/cache/*",
    "var/lib/apt",
    "var/log/*",
)
INSTALLERS = ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack", "distutils-precedence")


def slim_packages(environment: Path) -> None:
    """Slim the packages of a virtual environment."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    _delete(packages, PACKAGES)
    _compile(packages)


def slim_system() -> None:
    """Slim the operating system under the environment: no installer, no documents, no caches."""
    root = Path("/")
    _delete(root, SYSTEM)
    for name in INSTALLERS:
        for folder in (
            "usr/lib/python3*",
            "usr/lib/python3/dist-packages",
            "usr/local/lib/python3*/*-packages",
        ):
            _delete(root, [f"{folder}/{name}", f"{folder}/{name}-*", f"{folder}/{name}.pth"])
    shutil.rmtree(Path(ensurepip.__file__).parent, ignore_errors=True)
    _compile(Path(sysconfig.get_path("stdlib")))


def _delete(root: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        freed = 0
        for path in sorted(root.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                freed += sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
                shutil.rmtree(path)
            elif path.is_symlink() or path.exists():
                freed += path.lstat().st_size
                path.unlink()
        if freed:
            print(f"{freed / 1e6:7.1f} MB  {root / pattern}")


def _compile(folder: Path) -> None:
    """The root file system is read-only: what is not compiled now is compiled at every start."""
    compileall.compile_dir(
        folder, quiet=2, workers=0, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )


if __name__ == "__main__":
    if sys.argv[1] == "--system":
        slim_system()
    else:
        slim_packages(Path(sys.argv[1]))
