"""Train MEGL on packed data and track the run with MLflow."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    packed: dsl.Input[dsl.Dataset],
    digest: str,
    code: str,
    dvc: str,
    store: str,
    workspace: str,
    registry: str,
    model: str,
    objective: str,
    train: str,
    cluster: str,
    storage: str,
    trained: dsl.Output[dsl.Model],
    provenance: dsl.Output[dsl.Artifact],
) -> NamedTuple("Trained", [("model_digest", str), ("run_id", str)]):
    """Train a model, resuming where an earlier try of the same run stopped.

    Args:
        packed: Packed data.
        digest: Digest of the data.
        code: Digest of the code.
        dvc: DVC version of the dataset, as JSON.
        store: Digest of the tracking server's address.
        workspace: Folder of the local tracking store and of the checkpoints.
        registry: The `registry` section of the configuration, as JSON.
        model: The `model` section of the configuration, as JSON.
        objective: The `objective` section of the configuration, as JSON.
        train: The `train` section of the configuration, as JSON.
        cluster: The `cluster` section of the configuration, as JSON: where to train, on how many nodes.
        storage: The `storage` section of the configuration, as JSON.
        trained: The model folder.
        provenance: The statement of what the model was made of.

    Returns:
        model_digest: SHA-256 over the model's files, run_id: the MLflow run.
    """
    import json
    from pathlib import Path

    from megl_core import config, progress
    from megl_core.remote.launch import train_anywhere

    with progress.step("train"):
        settings = config.read_sections(
            registry=registry,
            model=model,
            objective=objective,
            train=train,
            cluster=cluster,
            storage=storage,
        )
        result = train_anywhere(
            Path(packed.path),
            Path(trained.path),
            settings,
            Path(workspace),
            digest=digest,
            code=code,
            dvc=json.loads(dvc),
            provenance=Path(provenance.path),
        )
    return (result.model_digest, result.run_id)
