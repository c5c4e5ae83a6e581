"""The identity of a logit store: everything that decides a logit, and nothing else.

Its fingerprint is written into each file of the store; two artefacts belong together exactly when
their fingerprints are equal, and when they are not, ``differences`` names the settings.

It leaves out batch sizes, threads, workers and URIs, which do not change a logit, and how a store
is cut into units, shards and files, which is its layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config.schema import ExperimentConfig
from pipeline.dataset.manifest import Manifest
from pipeline.storage.files import sha256_of
from pipeline.storage.sealed.identity import canonical_json
from pipeline.views.view import POLICY_VERSION

SCHEMA_VERSION = 1  # of the logit store; raise it when a file or an array changes meaning
TRANSFORM_VERSION = 1  # resizer, photometric operations, normalisation; raise it when pixels change


def cell_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an identity that decides what a cell holds, given its video and view.

    The rest is the extent: which videos and how many views there are. Stores that differ in
    nothing else hold the same cells where they overlap.
    """
    dataset = {name: v for name, v in identity["dataset"].items() if name != "manifest_digest"}
    views = {name: v for name, v in identity["views"].items() if name != "num_views"}
    return {**identity, "dataset": dataset, "views": views}


def build_identity(
    config: ExperimentConfig, *, manifest: Manifest, teacher_digest: str
) -> dict[str, Any]:
    """Collect everything that decides a logit of this experiment, as plain JSON values.

    Args:
        config: the experiment.
        manifest: its videos, or prepared frames.
        teacher_digest: sha256 over the sorted names, shapes, dtypes and bytes of the teacher's
            state, not over its file, which changes when it is saved again.

    """
    teacher, frames = config.teacher, config.frames
    # The manifest's digest covers prepared frames. They stand here so that a mismatch names them.
    prepared = {"frames": frames.content} if frames.source == "prepared" else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "transform_version": TRANSFORM_VERSION,
        "teacher": {
            "variant": teacher.variant,
            "embed_dim": teacher.embed_dim,
            "depths": None if teacher.depths is None else list(teacher.depths),
            "weights_sha256": teacher_digest,
            "precision": teacher.precision,
        },
        "dataset": {
            "manifest_digest": manifest.digest,
            "num_classes": len(manifest.class_names),
            # The manifest's digest covers the names. They stand here so that a mismatch names them.
            "class_names_sha256": sha256_of(canonical_json(manifest.class_names)),
        },
        "views": {"policy_version": POLICY_VERSION, **config.views.model_dump(mode="json")},
        "clip": config.clip.model_dump(mode="json"),
        "logits": {"dtype": "float16", "centred": True},
        **prepared,
    }
