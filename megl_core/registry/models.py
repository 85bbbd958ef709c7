"""The model registry, as everybody else calls it.

A version is an MLflow logged model with its reports inside. Its tags say which bytes these are, and the
model's digest, not MLflow's number, decides whether a model is already there.
"""

from megl_core.registry.fetching import fetch_evaluation, fetch_model
from megl_core.registry.registration import register
from megl_core.registry.stages import promote
from megl_core.registry.versions import (
    RegisteredVersion,
    Stage,
    champion,
    list_models,
    list_versions,
    show_version,
)

__all__ = [
    "RegisteredVersion",
    "Stage",
    "champion",
    "fetch_evaluation",
    "fetch_model",
    "list_models",
    "list_versions",
    "promote",
    "register",
    "show_version",
]
