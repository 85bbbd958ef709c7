"""The words of the registry: stages, aliases, and the tags of a version."""

from enum import StrEnum

from megl_core.config import RegistryConfig, parse

MODEL_DIGEST_TAG = "megl.model_digest"
EVALUATION_DIGEST_TAG = "megl.evaluation_digest"
GATE_DIGEST_TAG = "megl.gate_digest"
GATE_TAG = "megl.gate"
PROVENANCE_DIGEST_TAG = "megl.provenance_digest"
TRAINING_DATA_TAG = "megl.training_data_digest"
MANIFEST_DIGEST_TAG = "megl.manifest_digest"
SIGNED_TAG = "megl.signed"
STAGE_TAG = "megl.stage"
FORCED_TAG = "megl.forced"

CHAMPION = "champion"

MISSING = "RESOURCE_DOES_NOT_EXIST"
EXISTS = "RESOURCE_ALREADY_EXISTS"
"""MLflow's names of errors."""


class Stage(StrEnum):
    """Where a version stands; MLflow's own names."""

    NONE = "None"
    STAGING = "Staging"
    PRODUCTION = "Production"
    ARCHIVED = "Archived"


ALIASES = {Stage.STAGING: ("staging",), Stage.PRODUCTION: ("production", CHAMPION)}


STAGE_ALIASES = frozenset(alias for aliases in ALIASES.values() for alias in aliases)


def parse_name(name: str) -> str:
    """A model's name that is safe to put into a query.

    Raises:
        ConfigError: it holds other characters than letters, digits, `.`, `_` and `-`.
    """
    return parse(RegistryConfig, {"model_name": name}, where="model name").model_name
