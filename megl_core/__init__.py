"""MEGL: image classifiers that learn from labels, masks and rationales, with provenance.

Importing this package loads no framework; `MEGL` comes with torch when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megl_core.models.megl import MEGL

__version__ = "0.1.0"
__all__ = ["MEGL", "__version__"]


def __getattr__(name: str) -> Any:
    if name != "MEGL":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from megl_core.models.megl import MEGL

    return MEGL
