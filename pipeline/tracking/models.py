"""Networks in MLflow: exported, logged to a run, registered under a name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import StorageUnavailable
from pipeline.tracking.server import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from dvflnet import VideoFocalNet

CANDIDATE = "candidate"  # alias of the newest registered version: nobody has approved it yet


def export_model(
    model: VideoFocalNet, path: Path, num_frames: int, side: int, metadata: Mapping[str, Any]
) -> None:
    """Write a network to a folder as an exported program.

    That takes four times as long as a pickle, once a run. But opening a pickle runs whatever is in
    it, and needs this package.
    """
    import numpy as np
    import torch
    from mlflow import pytorch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    any_batch, float32 = -1, np.dtype(np.float32)
    clips = TensorSpec(float32, (any_batch, num_frames, 3, side, side), "clip")
    logits = TensorSpec(float32, (any_batch, model.num_classes), "logits")
    pytorch.save_model(
        model,
        path,
        signature=ModelSignature(inputs=Schema([clips]), outputs=Schema([logits])),
        # A tensor, not an array, which would be written out as 50 MB of JSON. Two clips, because a
        # batch of one is exported as one for ever.
        input_example=torch.zeros(2, num_frames, 3, side, side),
        serialization_format="pt2",
        pip_requirements=[f"torch=={torch.__version__}"],  # inferring them starts a process
        metadata=dict(metadata),
    )


def upload_model(client: MlflowClient, experiment: str, run_id: str, path: Path) -> None:
    """Make an exported folder a logged model of a run."""
    from mlflow.entities import LoggedModelOutput

    logged = client.create_logged_model(experiment, "student", run_id)
    client.log_model_artifacts(logged.model_id, str(path))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])


def register_model(uri: str, run_id: str, name: str) -> str:
    """Make a run's model a version of a registered one, with the alias ``candidate``.

    The same run twice is one version.

    Returns:
        The version. ``models:/NAME@candidate`` names it, until a later one takes the alias.

    Raises:
        StorageUnavailable: if MLflow does not answer, or the run's model never reached it.

    """
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    try:
        outputs = client.get_run(run_id).outputs
        models = outputs.model_outputs if outputs else []
        if not models:
            raise StorageUnavailable(
                f"run {run_id} has no model in MLflow at {uri}: it never arrived. Train again with "
                "MLflow there, or use the weights file of the run."
            )
        version = _version_of(client, name, run_id, models[-1].model_id)
        client.set_registered_model_alias(name, CANDIDATE, version)
    except MlflowException as error:
        raise StorageUnavailable(f"MLflow at {uri} refuses to register {name}: {error}") from error
    return version


def _version_of(client: MlflowClient, name: str, run_id: str, model_id: str) -> str:
    """Return the run's version of a registered model; make what is missing."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    versions = client.search_model_versions(f"name = '{name}' AND run_id = '{run_id}'")
    if versions:
        return str(versions[0].version)
    # Not ``models:/<id>``, which MLflow would look up on the server of the process.
    source = client.get_logged_model(model_id).artifact_location
    return str(client.create_model_version(name, source, run_id, model_id=model_id).version)
