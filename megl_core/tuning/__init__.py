"""Search for settings: `tune` tries points of a space over the configuration tree."""

from megl_core.tuning.search import Tuned, tune
from megl_core.tuning.space import Space, read_space

__all__ = ["Space", "Tuned", "read_space", "tune"]
