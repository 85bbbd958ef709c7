"""The model registry, as everybody else calls it.

A version is an MLflow logged model with its reports inside. Its tags say which bytes these are, and the
model's digest, not MLflow's number, decides whether a model is already there.
"""

from megl_core.registry.fetching import fetch_evaluation, fetch_model
from megl_core.registry.registration import register
from megl_core.registry.stages import (
    approve,
    promote,
    read_history,
    reject,
    request,
    rollback,
    state_at,
)
from megl_core.registry.versions import (
    RegisteredVersion,
    champion,
    list_models,
    list_versions,
    show_version,
)
from megl_core.registry.vocabulary import Stage

__all__ = [
    "RegisteredVersion",
    "Stage",
    "approve",
    "champion",
    "fetch_evaluation",
    "fetch_model",
    "list_models",
    "list_versions",
    "promote",
    "read_history",
    "register",
    "reject",
    "request",
    "rollback",
    "show_version",
    "state_at",
]
