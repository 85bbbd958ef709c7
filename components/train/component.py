"""Train MEGL on packed data and track the run with MLflow."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    packed: dsl.Input[dsl.Dataset],
    digest: str,
    code: str,
    dvc: dict,
    workspace: str,
    registry: dict,
    model: dict,
    objective: dict,
    train: dict,
    trained: dsl.Output[dsl.Model],
) -> NamedTuple("Trained", [("model_digest", str), ("run_id", str)]):
    """Train a model, resuming where an earlier try of the same run stopped.

    Args:
        packed: Packed data.
        digest: Digest of the data.
        code: Digest of the code.
        dvc: DVC version of the dataset, for the record.
        workspace: Folder of the local tracking store and of the checkpoints.
        registry: The `registry` section of the configuration.
        model: The `model` section of the configuration.
        objective: The `objective` section of the configuration.
        train: The `train` section of the configuration.
        trained: The model folder.

    Returns:
        model_digest: SHA-256 over the model's files, run_id: the MLflow run.
    """
    from pathlib import Path

    from megl_core.registry.tracked import train_tracked

    from megl_core import config, progress

    with progress.step("train"):
        settings = config.parse(
            config.Config,
            {"registry": registry, "model": model, "objective": objective, "train": train},
            where="train",
        )
        result = train_tracked(
            Path(packed.path),
            Path(trained.path),
            settings,
            Path(workspace),
            digest=digest,
            code=code,
            dvc=dvc,
        )
    return (result.model_digest, result.run_id)
